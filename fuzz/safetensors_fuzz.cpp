// libFuzzer target of the safetensors parser. fuzz/CMakeLists.txt says how to run it.
#include "parse.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  samebits::fuzz::with_repaired_length({data, size}, samebits::fuzz::parse_safetensors);
  return 0;
}
