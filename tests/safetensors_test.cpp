// The safetensors reader against every kind of bad header, and the writer against a full disk and an interruption.
#include "io/safetensors.h"

#include <fmt/format.h>

#include "files.h"
#include "io/json.h"

namespace samebits {
namespace {

using namespace samebits::testing;

SafetensorsFile parse(std::string_view bytes) { return SafetensorsFile::from_bytes(to_bytes(bytes), "test"); }

TEST(SafetensorsTest, ReadsNamesTypesShapesAndMetadata) {
  const SafetensorsFile file = parse(raw_safetensors(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("a":{"dtype":"I64","shape":[],"data_offsets":[24,32]},"empty":{"dtype":"BF16","shape":[0,7],"data_offsets":[32,32]}}   )",
      32));
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_EQ(file.tensors()[0].type->dtype, std::nullopt);
  EXPECT_EQ(file.tensors()[0].elements(), 1);
  EXPECT_EQ(describe(*file.find("b")), "F32 [2,3]");
  EXPECT_TRUE(file.find("b")->is(Dtype::kF32));
  EXPECT_EQ(file.find("b")->bytes.size(), 24u);
  EXPECT_TRUE(file.find("empty")->bytes.empty());
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(SafetensorsTest, AlignsWhatTheFileDoesNot) {
  std::string bytes = raw_safetensors(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
      1);
  bytes += floats({1.5f});
  for (size_t pad = 0; pad < 4; ++pad) {  // one of the four puts the float at each address modulo 4
    std::string moved = bytes;
    moved.insert(bytes.size() - 5, pad, ' ');
    moved[0] = static_cast<char>(moved[0] + static_cast<char>(pad));
    const SafetensorsFile file = parse(moved);
    const std::byte* at = file.find("b")->bytes.data();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % 4, 0u);
    EXPECT_EQ(*reinterpret_cast<const float*>(at), 1.5f);
  }
}

struct BadHeader {
  const char* what;
  std::string bytes;
  const char* message;
};

std::string one_tensor(std::string_view dtype, std::string_view shape, std::string_view offsets, size_t data = 4) {
  return raw_safetensors(fmt::format(R"({{"t":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets),
                         data);
}

std::vector<BadHeader> bad_headers() {
  const std::string t = R"("t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const std::string deep(100'000, '[');
  return {
      {"Empty", "", "0 bytes are no safetensors file"},
      {"SevenBytes", "1234567", "7 bytes are no safetensors file"},
      {"TruncatedHeader", raw_safetensors("{" + t + "}", 4).substr(0, 30), "truncated"},
      {"HugeLength", std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10),
       "18446744073709551615 bytes in a file of 10"},
      {"LengthThatWraps", std::string("\xf8\xff\xff\xff\xff\xff\xff\xff{}", 10), "18446744073709551608 bytes"},
      {"NoObject", raw_safetensors("[]", 0), "does not begin with an object"},
      {"LeadingSpace", raw_safetensors(" {}", 0), "does not begin with an object"},
      {"NoJson", raw_safetensors("{\"t\":", 0), "not JSON"},
      {"TrailingText", raw_safetensors("{}x", 0), "not JSON"},
      {"NotUtf8", raw_safetensors("{\"\xff\":1}", 0), "not JSON"},
      {"DeepArray", raw_safetensors("{\"t\":" + deep, 0), "more than 4 levels"},
      {"DeepObject", raw_safetensors(R"({"t":{"shape":{"a":{"b":{}}}}})", 0), "more than 4 levels"},
      {"DuplicateTensor", raw_safetensors("{" + t + "," + t + "}", 4), "the name \"t\" appears twice"},
      {"DuplicateByEscape",
       raw_safetensors("{" + t + R"(,"\u0074":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4), "appears twice"},
      {"DuplicateKey", raw_safetensors(R"({"t":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}})", 4),
       "\"dtype\" appears twice"},
      {"MetadataArray", raw_safetensors(R"({"__metadata__":[]})", 0), "__metadata__ is not an object"},
      {"MetadataNumber", raw_safetensors(R"({"__metadata__":{"a":1}})", 0), "\"a\" is not a string"},
      {"TensorArray", raw_safetensors(R"({"t":[]})", 0), "not an object with dtype"},
      {"NoShape", raw_safetensors(R"({"t":{"dtype":"U8","data_offsets":[0,4]}})", 4), "not an object with dtype"},
      {"UnknownDtype", one_tensor(R"("F33")", "[1]", "[0,4]"), "unknown dtype \"F33\""},
      {"DtypeNumber", one_tensor("32", "[1]", "[0,4]"), "unknown dtype \"32\""},
      {"NegativeShape", one_tensor(R"("U8")", "[-4]", "[0,4]"), "\"-4\" in the shape is not a size"},
      {"FractionalShape", one_tensor(R"("U8")", "[4.0]", "[0,4]"), "\"4.0\" in the shape"},
      {"ShapeAboveInt64", one_tensor(R"("U8")", "[9223372036854775808]", "[0,4]"), "is not a size"},
      {"ShapeAboveUint64", one_tensor(R"("U8")", "[99999999999999999999]", "[0,4]"), "is not a size"},
      {"ShapeString", one_tensor(R"("U8")", R"(["4"])", "[0,4]"), "in the shape is not a size"},
      {"ShapeNumber", one_tensor(R"("U8")", "4", "[0,4]"), "the shape is not an array"},
      {"ProductOverflow", one_tensor(R"("F32")", "[4294967296,4294967296]", "[0,0]", 0), "no whole number of bytes"},
      {"BitOverflow", one_tensor(R"("F32")", "[576460752303423489]", "[0,4]"), "no whole number of bytes"},
      {"HalfByte", one_tensor(R"("F4")", "[3]", "[0,2]", 2), "no whole number of bytes"},
      {"OffsetsOfOne", one_tensor(R"("U8")", "[4]", "[0]"), "data_offsets is not [begin, end]"},
      {"NegativeOffset", one_tensor(R"("U8")", "[4]", "[-1,3]"), "data_offsets is not [begin, end]"},
      {"BeginBehindEnd", one_tensor(R"("U8")", "[4]", "[4,0]"), "[4, 0] outside"},
      {"EndOutside", one_tensor(R"("U8")", "[5]", "[0,5]"), "[0, 5] outside of the 4 bytes"},
      {"EndFarOutside", one_tensor(R"("U8")", "[4]", "[9223372036854775803,9223372036854775807]"), "outside"},
      {"SizeMismatch", one_tensor(R"("F32")", "[2]", "[0,4]"), "hold 4 bytes but F32 [2] needs 8"},
      {"Overlap", raw_safetensors("{" + t + R"(,"u":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6),
       "\"u\": its data begins at 2, inside of another tensor that ends at 4"},
      {"SameData", raw_safetensors("{" + t + R"(,"u":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4),
       "inside of another tensor"},
      {"Gap", raw_safetensors("{" + t + R"(,"u":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}})", 6),
       "begins at 5, behind a gap that begins at 4"},
      {"TrailingData", raw_safetensors("{" + t + "}", 9), "9 bytes of data but the tensors end at 4"},
      {"TruncatedData", raw_safetensors("{" + t + "}", 3), "outside of the 3 bytes"},
  };
}

class BadHeaderTest : public ::testing::TestWithParam<BadHeader> {};

TEST_P(BadHeaderTest, IsRefusedWithTheReason) {
  expect_error([] { parse(GetParam().bytes); }, ErrorCode::kBadInput, GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(All, BadHeaderTest, ::testing::ValuesIn(bad_headers()),
                         [](const auto& info) { return std::string(info.param.what); });

// Every prefix of a good file is refused: a download that was cut off can never pass.
TEST(SafetensorsTest, EveryTruncationIsRefused) {
  const TempFolder folder;
  write_safetensors(folder / "f", {{"a", "F32", {2}, floats({1, 2})}, {"b", "U8", {3}, "xyz"}});
  const std::string whole = read_file(folder / "f");
  EXPECT_NO_THROW(parse(whole));
  for (size_t length = 0; length < whole.size(); ++length)
    EXPECT_THROW(parse(whole.substr(0, length)), Error) << length;
}

TEST(SafetensorsTest, HostileNamesAreEscapedInMessages) {
  const std::string message = error_of([] { parse(raw_safetensors("{\"\\u001b[31m\":[]}", 0)); });
  EXPECT_EQ(message.find('\x1b'), std::string::npos) << message;
  EXPECT_EQ(printable(std::string(500, 'x')).size(), 125u);
}

TEST(SafetensorsTest, MissingFilesAndFoldersAreErrors) {
  const TempFolder folder;
  expect_error([&] { SafetensorsFile::open(folder / "none"); }, ErrorCode::kIo, "No such file");
  expect_error([&] { SafetensorsFile::open(folder.path()); }, ErrorCode::kIo, "not a regular file");
  write_file(folder / "empty", "");
  expect_error([&] { SafetensorsFile::open(folder / "empty"); }, ErrorCode::kBadInput, "the file is empty");
}

TEST(SafetensorsWriterTest, RoundTripsAndAligns) {
  const TempFolder folder;
  const std::vector<NewTensor> tensors = {{"z", "U8", {1}, "q"},
                                          {"y", "F32", {2, 1}, floats({1, -2})},
                                          {"x", "BF16", {0}, ""},
                                          {"w", "F64", {}, "12345678"}};
  write_safetensors(folder / "f", tensors, {{"format", "pt"}});
  const SafetensorsFile file = SafetensorsFile::open(folder / "f");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const NewTensor& t : tensors) {
    const Tensor* got = file.find(t.name);
    ASSERT_NE(got, nullptr);
    EXPECT_EQ(got->type->name, t.type);
    EXPECT_EQ(got->shape, t.shape);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(got->bytes.data()), got->bytes.size()), t.bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(got->bytes.data()) % static_cast<size_t>(std::max(got->type->bits / 8, 1)),
              0u)
        << t.name;
  }
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(SafetensorsWriterTest, LayoutMustBeFilledExactly) {
  const TempFolder folder;
  const std::vector<TensorSpec> specs = {{"a", find_tensor_type("U8"), {2}}, {"b", find_tensor_type("U8"), {1}}};
  SafetensorsWriter writer(folder / "f", specs, {});
  const std::string two = "12";
  expect_error([&] { writer.write("c", std::as_bytes(std::span(two))); }, ErrorCode::kBadInput, "does not expect");
  expect_error([&] { writer.write("b", std::as_bytes(std::span(two))); }, ErrorCode::kBadInput, "does not expect");
  writer.write("a", std::as_bytes(std::span(two)));
  expect_error([&] { writer.write("a", std::as_bytes(std::span(two))); }, ErrorCode::kBadInput, "does not expect");
  expect_error([&] { writer.commit(); }, ErrorCode::kBadInput, "\"b\" was never written");
  expect_error([&] { SafetensorsWriter(folder / "g", {specs[0], specs[0]}, {}); }, ErrorCode::kBadInput, "used twice");
}

TEST(SafetensorsWriterTest, AnInterruptedWriteLeavesTheOldFile) {
  const TempFolder folder;
  write_file(folder / "f", "old");
  {
    SafetensorsWriter writer(folder / "f", {{"a", find_tensor_type("U8"), {2}}}, {});
    EXPECT_EQ(folder.list().size(), 2u);
  }
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(folder.list(), std::vector<std::string>{"f"});
}

TEST(SafetensorsWriterTest, AFullDiskLeavesTheOldFileAndNothingElse) {
  const TempFolder folder;
  write_file(folder / "f", "old");
  for (const bool reserve : {true, false}) {
    expect_io_error_on_a_full_disk(4096, [&] {
      AtomicFile file(folder / "f", reserve ? 8192 : 0);
      file.write_at(0, std::vector<std::byte>(8192));
      file.commit();
    });
    EXPECT_EQ(read_file(folder / "f"), "old");
    EXPECT_EQ(folder.list(), std::vector<std::string>{"f"});
  }
}

TEST(AtomicFileTest, ReplacesFilesOnly) {
  const TempFolder folder;
  atomic_write_text(folder / "f", "one");
  atomic_write_text(folder / "f", "two");
  EXPECT_EQ(read_file(folder / "f"), "two");
  expect_error([&] { atomic_write_text(folder.path(), "x"); }, ErrorCode::kBadInput, "not a regular file");
  expect_error([] { atomic_write_text("/dev/full", "x"); }, ErrorCode::kBadInput, "not a regular file");
  expect_error([&] { atomic_write_text(folder / "no/such", "x"); }, ErrorCode::kIo, "No such file");
  EXPECT_EQ(folder.list(), std::vector<std::string>{"f"});
}

TEST(AtomicFileTest, CheckCanWriteIsTheSameWithoutTheFile) {
  const TempFolder folder;
  check_can_write(folder / "f");
  write_file(folder / "f", "old");
  check_can_write(folder / "f");
  EXPECT_EQ(read_file(folder / "f"), "old");
  expect_error([&] { check_can_write(folder.path()); }, ErrorCode::kBadInput, "not a regular file");
  expect_error([&] { check_can_write(folder / "no/such"); }, ErrorCode::kIo, "No such file");
  EXPECT_EQ(folder.list(), std::vector<std::string>{"f"});
}

TEST(AtomicFolderTest, AppearsWholeOrNotAtAll) {
  const TempFolder folder;
  const std::filesystem::path path = folder / "parent/out";
  const auto replace = [](const std::filesystem::path&) {};
  const auto keep = [](const std::filesystem::path& old) { bad_file(old, "is precious"); };
  { write_file(AtomicFolder(path, keep).temporary() / "a", "1"); }
  EXPECT_EQ(std::filesystem::exists(path), false);
  std::filesystem::create_directories(path);  // an empty one holds nothing to keep
  const auto write = [&](const char* text, const AtomicFolder::CheckOld& check_old) {
    AtomicFolder out(folder / "parent/out/", check_old);
    write_file(out.temporary() / "a", text);
    out.commit();
  };
  write("1", keep);
  write("2", replace);
  EXPECT_EQ(read_file(path / "a"), "2");
  expect_error([&] { AtomicFolder(path, keep); }, ErrorCode::kBadInput, "is precious");
  int asked = 0;  // what appears during the work is seen, too
  const auto changed = [&](const std::filesystem::path& old) {
    if (++asked == 2) bad_file(old, "is precious now");
  };
  expect_error([&] { write("3", changed); }, ErrorCode::kBadInput, "is precious now");
  EXPECT_EQ(read_file(path / "a"), "2");
  EXPECT_EQ(folder.list(), std::vector<std::string>{"parent"});
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "parent"), {}), 1);
}

TEST(SafetensorsTest, TypesOfTheFormatThatAreNotComputedWithAreRead) {
  for (const auto& [type, bits] : {std::pair("F4", 4), {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E8M0", 8}, {"C64", 64}}) {
    const std::string header =
        fmt::format(R"({{"t":{{"dtype":"{}","shape":[4],"data_offsets":[0,{}]}}}})", type, bits / 2);
    const SafetensorsFile file = parse(raw_safetensors(header, static_cast<size_t>(bits / 2)));
    EXPECT_EQ(file.tensors()[0].type->bits, bits);
    EXPECT_FALSE(file.tensors()[0].is_float());
  }
}

}  // namespace
}  // namespace samebits
