// libFuzzer target of the recording reader. fuzz/CMakeLists.txt says how to run it.
#include "parse.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  samebits::fuzz::with_repaired_length({data, size}, samebits::fuzz::parse_recording);
  return 0;
}
