// POSIX files: mmap, and replacement by rename.
#include "io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace samebits {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail(const fs::path& path, std::string_view action) {
  const int error = errno;
  throw Error(ErrorCode::kIo, fmt::format("{}: {}: {}", path.string(), action, std::strerror(error)));
}

// In the folder of `path`, because rename does not cross file systems.
fs::path temporary_name(const fs::path& path) {
  static std::atomic<unsigned> counter{0};
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  return folder / fmt::format(".{}.{}.{}.tmp", path.filename().string(), getpid(), counter++);
}

void sync_folder(const fs::path& folder) {
  const int fd = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail(folder, "open");
  // Some file systems cannot sync a folder and say EINVAL; the rename is still atomic.
  const int error = fsync(fd) == 0 || errno == EINVAL ? 0 : errno;
  close(fd);
  if (error) errno = error, fail(folder, "fsync");
}

}  // namespace

fs::path without_trailing_slash(const fs::path& path) {
  const fs::path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

MappedFile::MappedFile(const fs::path& path) {
  // O_NONBLOCK: a FIFO of that name must not hang the process before S_ISREG refuses it.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail(path, "open");
  struct stat status;
  const bool regular = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  if (!regular || status.st_size == 0) {
    close(fd);
    throw Error(regular ? ErrorCode::kBadInput : ErrorCode::kIo,
                fmt::format("{}: {}", path.string(), regular ? "the file is empty" : "not a regular file"));
  }
  const size_t size = static_cast<size_t>(status.st_size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  close(fd);
  if (data == MAP_FAILED) errno = error, fail(path, fmt::format("mmap of {} bytes", size));
  bytes_ = {static_cast<const std::byte*>(data), size};
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (bytes_.data()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

AtomicFile::AtomicFile(const fs::path& path, uint64_t size) : path_(path), temporary_(temporary_name(path)) {
  std::error_code ignored;
  if (fs::exists(path, ignored) && !fs::is_regular_file(path, ignored))
    bad_file(path, "not a regular file, so not replaced");
  fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(temporary_, "create");
  if (size > 0 && fallocate(fd_, 0, 0, static_cast<off_t>(size)) != 0 && errno != EOPNOTSUPP && errno != ENOSYS) {
    const int error = errno;
    close(fd_);
    unlink(temporary_.c_str());
    errno = error;
    fail(path, fmt::format("reserving {} bytes", size));
  }
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(path_, fmt::format("write of {} bytes at {}", bytes.size(), offset));
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
}

void AtomicFile::commit() {
  if (fsync(fd_) != 0) fail(path_, "fsync");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "rename");
  const int fd = std::exchange(fd_, -1);
  if (close(fd) != 0) fail(path_, "close");
  sync_folder(path_.parent_path());
}

void atomic_write_text(const fs::path& path, std::string_view text) {
  AtomicFile file(path, text.size());
  file.write_at(0, std::as_bytes(std::span(text)));
  file.commit();
}

void check_can_write(const fs::path& path) { const AtomicFile probe(path); }

AtomicFolder::AtomicFolder(const fs::path& path, CheckOld check_old)
    : path_(without_trailing_slash(path)), temporary_(temporary_name(path_)), check_old_(std::move(check_old)) {
  check_path();
  if (temporary_.has_parent_path()) fs::create_directories(temporary_.parent_path());
  if (mkdir(temporary_.c_str(), 0777) != 0) fail(path_, "create the folder");
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void AtomicFolder::check_path() const {
  if (!fs::exists(path_)) return;
  if (!fs::is_directory(path_)) bad_file(path_, "exists and is not a folder");
  if (!fs::is_empty(path_)) check_old_(path_);
}

void AtomicFolder::commit() {
  sync_folder(temporary_);
  check_path();
  if (fs::exists(path_)) {
    if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) != 0)
      fail(path_, "exchange with the new folder (remove the old one first)");
    // The old folder now has the temporary name, which the destructor removes.
  } else {
    if (rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "rename");
    temporary_.clear();
  }
  sync_folder(path_.parent_path());
}

std::string read_text(const fs::path& path, uint64_t limit) {
  const MappedFile file(path);
  if (file.bytes().size() > limit) bad_file(path, "{} bytes; at most {} are read", file.bytes().size(), limit);
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
}

}  // namespace samebits
