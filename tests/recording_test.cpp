// Recordings: the golden file, a round trip, and every way a call can be wrong.
#include "io/recording.h"

#include "bits.h"
#include "files.h"
#include "half.h"
#include "numerics/reference.h"

namespace samebits {
namespace {

using namespace samebits::testing;

TEST(RecordingTest, ReadsTheGoldenFile) {
  const Recording recording = Recording::open(SAMEBITS_GOLDEN_DIR "/h100.safetensors");
  EXPECT_EQ(recording.version(), 1);
  ASSERT_EQ(recording.calls().size(), 30u);
  EXPECT_EQ(recording.metadata().at("device"), "NVIDIA H100 80GB HBM3");
  int64_t outputs = 0, promoted = 0;
  for (const RecordedCall& call : recording.calls()) {
    outputs += call.out.rows * call.out.cols;
    promoted += call.order == Order::kHopperPromoted;
  }
  EXPECT_EQ(outputs, 122880);
  EXPECT_EQ(promoted, 15);
  const RecordedCall& call = recording.calls()[0];
  Matrix out(call.out.dtype, call.out.rows, call.out.cols);
  reference_gemm(call.problem(out.view()));
  EXPECT_TRUE(same_bits(out.view(), call.out));
}

TEST(RecordingTest, RoundTripsEveryOrderDtypeAndStride) {
  const TempFolder folder;
  Random random{1};
  const Matrix a = fp8_matrix(random, Data::kNormal, 3, 40, Dtype::kE5m2, 48),
               b = fp8_matrix(random, Data::kNormal, 5, 40);
  Matrix bias(Dtype::kBf16, 1, 5), out(Dtype::kF16, 3, 5, 8);
  const std::vector<float> sa = random_scales(random, 6), sb = random_scales(random, 5);
  std::vector<RecordedCall> calls;
  for (const OrderSpec& order : orders_of(Operands::kFp8))
    calls.push_back({order.order, a.view(), b.view(), Scales::per_row(sa.data(), 3, 2), Scales::per_row(sb.data(), 5),
                     bias.view(), out.view()});
  const auto [half_a, half_b] = half_operands(random, HalfData::kSpecial, Dtype::kF16, 3, 5, 40);
  for (const Matrix* weight : {&half_b, &b})
    calls.push_back({Order::kHopperBf16, half_a.view(), weight->view(), Scales::per_tensor(sa.data()),
                     Scales::per_row(sb.data(), 5), bias.view(), out.view()});
  Matrix square(Dtype::kF32, 5, 5);
  calls.push_back({Order::kHopperFast,
                   b.view(),
                   b.view(),
                   Scales::per_tensor(sa.data()),
                   Scales::per_tensor(sb.data()),
                   {},
                   square.view()});
  write_recording(folder / "r", calls, {{"device", "cpu"}});

  const Recording read = Recording::open(folder / "r");
  EXPECT_EQ(read.version(), 2);
  EXPECT_EQ(read.metadata().at("device"), "cpu");
  ASSERT_EQ(read.calls().size(), calls.size());
  for (size_t i = 0; i < calls.size(); ++i) {
    const RecordedCall &got = read.calls()[i], &want = calls[i];
    EXPECT_EQ(got.order, want.order);
    EXPECT_TRUE(same_bits(got.a, want.a));
    EXPECT_TRUE(same_bits(got.b, want.b));
    EXPECT_TRUE(same_bits(got.out, want.out));
    ASSERT_EQ(static_cast<bool>(got.bias), static_cast<bool>(want.bias));
    if (want.bias) {
      EXPECT_TRUE(same_bits(got.bias, want.bias));
    }
    ASSERT_EQ(got.scale_a.rows, want.scale_a.rows);
    for (int64_t r = 0; r < want.scale_a.rows; ++r) EXPECT_EQ(got.scale_a.of_row(r), want.scale_a.of_row(r));
    ASSERT_EQ(got.scale_b.rows, want.scale_b.rows);
    for (int64_t r = 0; r < want.scale_b.rows; ++r) EXPECT_EQ(got.scale_b.of_row(r), want.scale_b.of_row(r));
  }
}

// One good call, and what is done to it.
class BadRecordingTest : public ::testing::Test {
 protected:
  std::vector<NewTensor> tensors_ = {
      {"call.0.a", "F8_E4M3", {2, 3}, std::string(6, '8')}, {"call.0.b", "F8_E4M3", {4, 3}, std::string(12, '8')},
      {"call.0.scale_a", "F32", {2, 1}, floats({1, 2})},    {"call.0.scale_b", "F32", {1, 4}, floats({1, 2, 3, 4})},
      {"call.0.bias", "F32", {4}, floats({0, 0, 0, 0})},    {"call.0.out", "F32", {2, 4}, std::string(32, '\0')}};
  Metadata metadata_ = {
      {"format", "samebits-recording"}, {"version", "2"}, {"calls", "1"}, {"call.0.order", "ada-fast"}};
  const TempFolder folder_;

  Recording open() {
    write_safetensors(folder_ / "r", tensors_, metadata_);
    return Recording::open(folder_ / "r");
  }
  void refused(std::string_view text) {
    expect_error([&] { open(); }, ErrorCode::kBadInput, text);
  }
  NewTensor& at(std::string_view name) {
    return *std::find_if(tensors_.begin(), tensors_.end(), [&](const NewTensor& t) { return t.name == name; });
  }
};

TEST_F(BadRecordingTest, ControlIsGood) { EXPECT_EQ(open().calls()[0].order, Order::kAdaFast); }
TEST_F(BadRecordingTest, NoFormat) { metadata_.erase("format"), refused("not a recording: no format"); }
TEST_F(BadRecordingTest, OtherFormat) { metadata_["format"] = "pt", refused("format is \"pt\""); }
TEST_F(BadRecordingTest, Version3) { metadata_["version"] = "3", refused("recording version \"3\""); }
TEST_F(BadRecordingTest, CallsText) { metadata_["calls"] = "1x", refused("calls is \"1x\""); }
TEST_F(BadRecordingTest, CallsNegative) { metadata_["calls"] = "-1", refused("calls is \"-1\""); }
TEST_F(BadRecordingTest, CallsHuge) { metadata_["calls"] = "18446744073709551615", refused("with 6 tensors"); }
TEST_F(BadRecordingTest, CallsTooMany) { metadata_["calls"] = "2", refused("no call.1.order"); }
TEST_F(BadRecordingTest, CallsTooFew) { metadata_["calls"] = "0", refused("belongs to none of the 0 calls"); }
TEST_F(BadRecordingTest, NoOrder) { metadata_.erase("call.0.order"), refused("no call.0.order"); }
TEST_F(BadRecordingTest, UnknownOrder) {
  metadata_["call.0.order"] = "hopper-quick", refused("call.0.order: unknown order 'hopper-quick'");
}
TEST_F(BadRecordingTest, Version1Accumulation) {
  metadata_["version"] = "1", metadata_["call.0.accumulation"] = "slow", refused("call.0.accumulation is \"slow\"");
}
TEST_F(BadRecordingTest, Version1E5m2) {
  metadata_["version"] = "1", metadata_["call.0.accumulation"] = "fast", at("call.0.a").type = "F8_E5M2",
  refused("version 1 has F8_E4M3 operands");
}
TEST_F(BadRecordingTest, NoOut) { tensors_.pop_back(), refused("call.0.out is missing"); }
TEST_F(BadRecordingTest, OperandDtype) { at("call.0.a").type = "I8", refused("call.0.a is I8 [2,3]"); }
TEST_F(BadRecordingTest, OperandRank) { at("call.0.a").shape = {6}, refused("call.0.a is F8_E4M3 [6], not a matrix"); }
TEST_F(BadRecordingTest, DifferentK) {
  at("call.0.a").shape = {3, 2}, refused("call.0.a is [3,2] and call.0.b is [4,3]");
}
TEST_F(BadRecordingTest, ScaleCount) {
  at("call.0.scale_a") = {"call.0.scale_a", "F32", {3}, floats({1, 2, 3})}, refused("call.0.scale_a is F32 [3]");
}
TEST_F(BadRecordingTest, ScaleRow) { at("call.0.scale_a").shape = {1, 2}, refused("neither one scale nor 2"); }
TEST_F(BadRecordingTest, BlockScales) {
  at("call.0.scale_b").shape = {2, 2}, refused("no order of this version takes block scales");
}
TEST_F(BadRecordingTest, ScaleDtype) { at("call.0.scale_a").type = "I32", refused("call.0.scale_a is I32"); }
TEST_F(BadRecordingTest, BiasCount) {
  at("call.0.bias") = {"call.0.bias", "F32", {3}, floats({1, 2, 3})}, refused("call.0.bias is F32 [3], not [4]");
}
TEST_F(BadRecordingTest, OutShape) { at("call.0.out").shape = {4, 2}, refused("call.0.out is [4,2], not [2,4]"); }
TEST_F(BadRecordingTest, StrayTensor) {
  tensors_.push_back({"call.7.a", "U8", {1}, "x"}), refused("\"call.7.a\" belongs to none");
}
TEST_F(BadRecordingTest, EmptyK) {
  at("call.0.a") = {"call.0.a", "F8_E4M3", {2, 0}, ""}, at("call.0.b") = {"call.0.b", "F8_E4M3", {4, 0}, ""},
  refused("K must be the same and not 0");
}

}  // namespace
}  // namespace samebits
