// Every file of fuzz/corpus through both parsers: each is taken or refused with an Error, under whatever sanitizer this
// build has. The seeds whose names say so must be taken: a parser that refuses everything would pass otherwise.
#include <set>

#include "../fuzz/parse.h"
#include "files.h"

namespace samebits {
namespace {

using namespace samebits::testing;

TEST(CorpusTest, EveryFileIsTakenOrRefused) {
  int files = 0, accepted = 0, recordings = 0;
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
    ++files;
  }
  EXPECT_GE(files, 20);
  EXPECT_GE(accepted, 10);
  EXPECT_GE(recordings, 5);
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

}  // namespace
}  // namespace samebits
