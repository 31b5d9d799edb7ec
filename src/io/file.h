// Files as the operating system gives them: mapped for reading, replaced as a whole for writing. Used by everything in
// src/io; no other file of the library opens one.
#pragma once
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "samebits/error.h"

namespace samebits {

/// Throws Error(kBadInput) that opens with the file: "model.safetensors: what is wrong with it".
template <class... Args>
[[noreturn]] void bad_file(const std::filesystem::path& path, fmt::format_string<Args...> what, Args&&... args) {
  throw Error(ErrorCode::kBadInput, path.string() + ": " + fmt::format(what, std::forward<Args>(args)...));
}

/// The bytes of a regular file, mapped read-only until destruction. Throws Error(kIo). Whoever shortens the file while
/// it is mapped makes a read past its new end a SIGBUS, as with every mmap.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

/// A new file that takes its name only when it is complete: written under a temporary name in the same folder, then
/// fsync, rename, fsync of the folder. Destroyed before commit(), or after any error, it leaves no trace and the old
/// file, if there was one, as it was. Throws Error(kIo); Error(kBadInput) if `path` is something else than a file.
class AtomicFile {
 public:
  /// Reserves `size` bytes on the disk where the file system can, so that a full disk is noticed before the work.
  explicit AtomicFile(const std::filesystem::path& path, uint64_t size = 0);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
};

/// Writes `text` to `path` with AtomicFile.
void atomic_write_text(const std::filesystem::path& path, std::string_view text);
/// Throws now what atomic_write_text would throw after hours of work. Leaves nothing behind.
void check_can_write(const std::filesystem::path& path);

/// A new folder that takes its name only when it is complete. Parents are created. An existing `path` that is not empty
/// is replaced if `check_old(path)` returns; what it throws is thrown, and the old folder stays. It is asked twice: in
/// the constructor, before anything is written, and in commit().
class AtomicFolder {
 public:
  using CheckOld = std::function<void(const std::filesystem::path& old)>;
  AtomicFolder(const std::filesystem::path& path, CheckOld check_old);
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  ~AtomicFolder();
  /// Where to write; the folder exists.
  const std::filesystem::path& temporary() const { return temporary_; }
  void commit();

 private:
  void check_path() const;

  std::filesystem::path path_, temporary_;
  CheckOld check_old_;
};

/// "out/" and "out" name the same thing, but only the second has a filename.
std::filesystem::path without_trailing_slash(const std::filesystem::path& path);

/// Runs `call` with std::filesystem's exceptions turned into Error(kIo).
template <class Call>
decltype(auto) with_io_errors(Call&& call) {
  try {
    return call();
  } catch (const std::filesystem::filesystem_error& e) {
    throw Error(ErrorCode::kIo, e.what());
  }
}

/// The text of a file of at most `limit` bytes. Throws Error(kIo or kBadInput).
std::string read_text(const std::filesystem::path& path, uint64_t limit);

}  // namespace samebits
