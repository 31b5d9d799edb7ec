// Files as the operating system gives them: mapped for reading, replaced as a whole for writing. Used by everything in
// src/io; no other file of the library opens one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "samebits/error.h"

namespace samebits {

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

/// A new folder that takes its name only when it is complete. An existing `path` is replaced only if every file in it
/// would be written again (an earlier result); anything else in it is Error(kBadInput) and stays. Parents are created.
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::filesystem::path& path);
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  ~AtomicFolder();
  /// Where to write; the folder exists.
  const std::filesystem::path& temporary() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path path_, temporary_;
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
