// Every file of fuzz/corpus through all parsers: each is taken or refused with an Error, under whatever sanitizer this
// build has. The seeds whose names say so must be taken: a parser that refuses everything would pass otherwise.
#include <set>

#include "../fuzz/parse.h"
#include "files.h"

namespace samebits {
namespace {

using namespace samebits::testing;

TEST(CorpusTest, EveryFileIsTakenOrRefused) {
  int files = 0, accepted = 0, recordings = 0, certificates = 0, rules = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(SAMEBITS_CORPUS_DIR)) {
    if (!entry.is_regular_file()) continue;
    SCOPED_TRACE(entry.path());
    const std::string text = read_file(entry.path());
    const std::span input(reinterpret_cast<const uint8_t*>(text.data()), text.size());
    fuzz::with_repaired_length(input, [&](std::vector<std::byte> b) {
      accepted += fuzz::parse_safetensors(std::move(b)) == fuzz::Outcome::kAccepted;
    });
    fuzz::with_repaired_length(input, [&](std::vector<std::byte> b) {
      recordings += fuzz::parse_recording(std::move(b)) == fuzz::Outcome::kAccepted;
    });
    fuzz::with_repaired_digest(
        input, [&](std::string_view t) { certificates += fuzz::parse_certificate(t) == fuzz::Outcome::kAccepted; });
    fuzz::with_repaired_digest(input,
                               [&](std::string_view t) { rules += fuzz::parse_rules(t) == fuzz::Outcome::kAccepted; });
    ++files;
  }
  EXPECT_GE(files, 20);
  EXPECT_GE(accepted, 10);
  EXPECT_GE(recordings, 5);
  EXPECT_GE(certificates, 4);
  EXPECT_GE(rules, 6);
}

TEST(CorpusTest, SeedsAreWhatTheirNamesSay) {
  const std::set<std::string> refused = {"overlap", "gap", "overflow", "deep", "huge_length"};
  for (const char* seed : {"empty", "two", "scalar", "unaligned", "sub_byte", "linear", "escapes", "overlap", "gap",
                           "overflow", "deep", "huge_length"}) {
    const fuzz::Outcome outcome =
        fuzz::parse_safetensors(to_bytes(read_file(std::string(SAMEBITS_CORPUS_DIR "/safetensors/") + seed)));
    EXPECT_EQ(outcome == fuzz::Outcome::kRefused, refused.contains(seed)) << seed;
  }
  for (const char* seed : {"v1", "v1_promoted", "v2_bias", "v2_e5m2", "none", "k64", "stray", "many_calls"}) {
    const fuzz::Outcome outcome =
        fuzz::parse_recording(to_bytes(read_file(std::string(SAMEBITS_CORPUS_DIR "/recording/") + seed)));
    EXPECT_EQ(outcome == fuzz::Outcome::kRefused,
              seed == std::string_view("stray") || seed == std::string_view("many_calls"))
        << seed;
  }
}

// As they are, but for the version. A table that has changed ends the certificates: make them again
// (certificate_test.cpp has one) and keep their names.
TEST(CorpusTest, SeedsOfDocumentsAreWhatTheirNamesSay) {
  const auto outcome = [](const std::string& seed, auto parse) {
    const std::string text = read_file(SAMEBITS_CORPUS_DIR "/" + seed);
    fuzz::Outcome last = fuzz::Outcome::kRefused;
    fuzz::with_repaired_digest({reinterpret_cast<const uint8_t*>(text.data()), text.size()},
                               [&](std::string_view t) { last = parse(t); });
    return last;
  };
  const std::set<std::string> refused = {"order_missing", "twice", "deep", "cut", "row_of_another_order"};
  for (const char* seed : {"ada", "not_auditable", "counts", "damaged", "order_missing", "twice", "deep", "cut"})
    EXPECT_EQ(outcome(std::string("certificate/") + seed, fuzz::parse_certificate) == fuzz::Outcome::kRefused,
              refused.contains(seed))
        << seed;
  for (const char* seed : {"empty", "two_orders", "four_orders", "damaged", "row_of_another_order", "twice", "deep"})
    EXPECT_EQ(outcome(std::string("rules/") + seed, fuzz::parse_rules) == fuzz::Outcome::kRefused,
              refused.contains(seed))
        << seed;
  const std::string damaged = read_file(SAMEBITS_CORPUS_DIR "/certificate/damaged");
  EXPECT_EQ(fuzz::parse_certificate(damaged), fuzz::Outcome::kRefused);
}

}  // namespace
}  // namespace samebits
