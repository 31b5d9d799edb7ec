// Temporary folders and small safetensors files, good and bad, for the tests of src/io and of the command line.
#pragma once
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace samebits::testing {

/// A folder that is removed at the end of the test.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "samebits-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }
  /// Names of everything in the folder, hidden files too.
  std::vector<std::string> list() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_file(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

inline void write_file(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

/// A file with this header, whatever it says, and `data` bytes of data.
inline std::string raw_safetensors(std::string_view header, size_t data) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i));
  return bytes.append(header).append(data, '\x01');
}

inline std::vector<std::byte> to_bytes(std::string_view text) {
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return std::vector<std::byte>(bytes, bytes + text.size());
}

/// A tensor with its bytes, for building files.
struct NewTensor {
  std::string name;
  std::string type;
  std::vector<int64_t> shape;
  std::string bytes;
};

/// FP32 values as bytes.
inline std::string floats(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

inline void write_safetensors(const std::filesystem::path& path, const std::vector<NewTensor>& tensors,
                              const Metadata& metadata = {}) {
  std::vector<TensorSpec> specs;
  for (const NewTensor& t : tensors) specs.push_back({t.name, find_tensor_type(t.type), t.shape});
  SafetensorsWriter writer(path, specs, metadata);
  for (const NewTensor& t : tensors) writer.write(t.name, std::as_bytes(std::span(t.bytes)));
  writer.commit();
}

/// The message of the Error that `call` throws, or "no error".
template <class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

/// Fails unless `call` throws an Error of this code whose message holds `text`.
template <class Call>
void expect_error(Call&& call, ErrorCode code, std::string_view text) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_NE(std::string_view(e.what()).find(text), std::string_view::npos) << e.what() << "\nlacks: " << text;
    return;
  }
  ADD_FAILURE() << "no error; expected: " << text;
}

/// Fails unless `write` throws Error(kIo) on a full disk: no file may pass `bytes`. The limit is of the process, so a
/// child runs it.
template <class Call>
void expect_io_error_on_a_full_disk(rlim_t bytes, Call&& write) {
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, bytes};
    setrlimit(RLIMIT_FSIZE, &limit);
    int status = 1;
    try {
      write();
    } catch (const Error& e) {
      status = e.code() == ErrorCode::kIo ? 0 : 2;
    }
    _exit(status);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0) << "1: no error; 2: another error; else a signal";
}

}  // namespace samebits::testing
