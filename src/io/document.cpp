// Files of ours, refused unless every word of them is what it should be.
#include "io/document.h"

#include <fmt/format.h>
#include <xxhash.h>

namespace samebits {

std::string digest_of(Json file) {
  file.erase("digest");
  const std::string text = file.dump();
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

std::string read_document(const std::filesystem::path& path) { return read_text(path, 16 << 20); }

Document::Document(std::string_view content, const std::filesystem::path& path, std::string_view format, int version,
                   std::string_view maker, int max_depth)
    : path_(path), json_(parse_json(content, path.string(), max_depth)) {
  if (!json_.is_object() || text(json_, "format") != format) bad("not a {} file of `{}`", format.substr(9), maker);
  if (const int64_t found = number(json_, "version"); found != version)
    bad("{} file version {}; this samebits reads {}", format.substr(9), found, version);
  if (const std::string digest = digest_of(json_); text(json_, "digest") != digest)
    bad("damaged: its content has the digest {}, it says {}", digest, printable(text(json_, "digest")));
}

uint64_t Document::digest() const { return hex(json_, "digest"); }

const Json& Document::member(const Json& object, const char* key) const {
  const auto at = object.is_object() ? object.find(key) : object.end();
  if (at == object.end()) bad("{} is missing", key);
  return *at;
}

std::string Document::text(const Json& object, const char* key) const {
  const Json& value = member(object, key);
  if (!value.is_string()) bad("{} is {}, not a string", key, printable(value.dump()));
  return value.get<std::string>();
}

bool Document::flag(const Json& object, const char* key) const {
  const Json& value = member(object, key);
  if (!value.is_boolean()) bad("{} is {}, not true or false", key, printable(value.dump()));
  return value.get<bool>();
}

int64_t Document::number(const Json& object, const char* key, int64_t least, int64_t most) const {
  return integer(member(object, key), key, least, most);
}

int64_t Document::integer(const Json& value, const char* what, int64_t least, int64_t most) const {
  // An unsigned beyond INT64_MAX would compare as a negative.
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) ||
      value.get<int64_t>() < least || value.get<int64_t>() > most)
    bad("{} is {}, not a number of {} to {}", what, printable(value.dump()), least, most);
  return value.get<int64_t>();
}

const Json& Document::array(const Json& object, const char* key) const {
  const Json& value = member(object, key);
  if (!value.is_array()) bad("{} is {}, not an array", key, printable(value.dump()));
  return value;
}

uint64_t Document::hex(const Json& object, const char* key) const {
  const std::string digits = text(object, key);
  if (digits.size() != 16 || digits.find_first_not_of("0123456789abcdef") != std::string::npos)
    bad("{} is {}, not 16 hexadecimal digits", key, printable(digits));
  return std::stoull(digits, nullptr, 16);
}

}  // namespace samebits
