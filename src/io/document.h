// A JSON file that samebits writes and reads back: a format name, a version and a digest of its content, so that damage
// is noticed. For rules.cpp and certificate.cpp.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>

#include "io/file.h"
#include "io/json.h"

namespace samebits {

struct Certificate;
struct RuleSet;

/// What load_rules() and load_certificate() make of a file's text. `path` opens every message.
RuleSet parse_rules(std::string_view text, const std::filesystem::path& path);
Certificate parse_certificate(std::string_view text, const std::filesystem::path& path);

/// The text of a file of at most 16 MiB. Throws Error(kIo), and Error(kBadInput) for a larger one.
std::string read_document(const std::filesystem::path& path);

/// XXH3-64 of a file's members but `digest`, 16 hex digits: of JSON without fractions, which has one spelling.
std::string digest_of(Json file);

/// The members of one file, each checked; errors are Error(kBadInput) and open with the path.
class Document {
 public:
  /// Checks that the content of the file is a `format` of `version` and undamaged. `maker`: what writes such files.
  Document(std::string_view content, const std::filesystem::path& path, std::string_view format, int version,
           std::string_view maker, int max_depth);

  const Json& json() const { return json_; }
  uint64_t digest() const;
  const Json& member(const Json& object, const char* key) const;
  std::string text(const Json& object, const char* key) const;
  bool flag(const Json& object, const char* key) const;
  int64_t number(const Json& object, const char* key, int64_t least = 1, int64_t most = INT32_MAX) const;
  int64_t integer(const Json& value, const char* what, int64_t least, int64_t most = INT32_MAX) const;
  const Json& array(const Json& object, const char* key) const;
  /// 16 hex digits.
  uint64_t hex(const Json& object, const char* key) const;

  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> what, Args&&... args) const {
    bad_file(path_, what, std::forward<Args>(args)...);
  }

 private:
  std::filesystem::path path_;
  Json json_;
};

}  // namespace samebits
