# The torch extension: one shared library against libtorch's stable ABI (no Python headers, so no Python ABI). It is
# loaded by python/samebits/ops.py into a process that has torch loaded, so libtorch needs no run path.
find_package(Python COMPONENTS Interpreter REQUIRED)
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
          "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0], end='')"
  OUTPUT_VARIABLE SAMEBITS_TORCH_DIR RESULT_VARIABLE failed ERROR_QUIET)
if(failed)
  message(FATAL_ERROR "SAMEBITS_TORCH=ON needs torch >= 2.11 in ${Python_EXECUTABLE}: pip install torch")
endif()
message(STATUS "samebits: torch headers from ${SAMEBITS_TORCH_DIR}")

add_library(samebits_torch MODULE src/torch/ops.cpp src/torch/quantize.cpp src/torch/fused.cpp)
set_target_properties(samebits_torch PROPERTIES OUTPUT_NAME _C PREFIX "" CXX_VISIBILITY_PRESET hidden)
# The oldest torch that this binary loads with, 2.11, whatever the headers' version.
target_compile_definitions(samebits_torch PRIVATE TORCH_TARGET_VERSION=0x020b000000000000)
target_include_directories(samebits_torch PRIVATE src)
# Only torch/, not the fmt, c10 and ATen beside it: torch's fmt is not ours, and the stable ABI needs nothing else.
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/torch_headers)
file(CREATE_LINK ${SAMEBITS_TORCH_DIR}/include/torch ${CMAKE_BINARY_DIR}/torch_headers/torch SYMBOLIC)
target_include_directories(samebits_torch SYSTEM PRIVATE ${CMAKE_BINARY_DIR}/torch_headers)
target_link_libraries(samebits_torch PRIVATE samebits samebits_flags fmt::fmt ${CMAKE_DL_LIBS}
                                             ${SAMEBITS_TORCH_DIR}/lib/libtorch_cpu.so)
target_link_options(samebits_torch PRIVATE -Wl,--exclude-libs,ALL -Wl,--unresolved-symbols=ignore-in-shared-libs)
set_target_properties(samebits_torch PROPERTIES SKIP_BUILD_RPATH ON SKIP_INSTALL_RPATH ON)
# The build tree holds the package as well: PYTHONPATH=<build>/python runs the tests without an install.
file(GLOB python_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/python/samebits/*.py
     ${PROJECT_SOURCE_DIR}/python/samebits/vllm)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/python/samebits)
foreach(source IN LISTS python_sources)
  get_filename_component(name ${source} NAME)
  # Relative, so that a tree carried to a GPU machine with its build folder still runs.
  file(RELATIVE_PATH source ${CMAKE_BINARY_DIR}/python/samebits ${source})
  file(CREATE_LINK ${source} ${CMAKE_BINARY_DIR}/python/samebits/${name} SYMBOLIC)
endforeach()
set_target_properties(samebits_torch PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/python/samebits)
install(TARGETS samebits_torch LIBRARY DESTINATION samebits COMPONENT python)
