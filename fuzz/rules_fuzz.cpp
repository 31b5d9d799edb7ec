// libFuzzer target of the reader of rules files. fuzz/CMakeLists.txt says how to run it.
#include "parse.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  samebits::fuzz::with_repaired_digest({data, size}, samebits::fuzz::parse_rules);
  return 0;
}
