# The GPU half: which architectures, where CUTLASS is, and one translation unit for each row of a .def table.
# samebits_add_cuda(target) adds the kernels to `target`, or none.cpp where there is nothing to build them for.

# What `all` means. A new architecture is added here, in src/cuda/tables.cpp and as src/cuda/smXX.def.
set(SAMEBITS_ALL_ARCHS 80 86 89 90a 100a 103a 120a)

# SAMEBITS_ARCHS -> a list of real architectures, possibly empty.
set(SAMEBITS_CUDA_ARCHS ${SAMEBITS_ARCHS})
if(SAMEBITS_ARCHS STREQUAL "none")
  set(SAMEBITS_CUDA_ARCHS "")
elseif(SAMEBITS_ARCHS STREQUAL "all")
  set(SAMEBITS_CUDA_ARCHS ${SAMEBITS_ALL_ARCHS})
elseif(SAMEBITS_ARCHS STREQUAL "native")
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader OUTPUT_VARIABLE capabilities
                  ERROR_QUIET RESULT_VARIABLE failed)
  set(SAMEBITS_CUDA_ARCHS "")
  if(NOT failed)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" capabilities "${capabilities}")
    foreach(capability IN LISTS capabilities)
      string(REPLACE "." "" arch ${capability})
      foreach(known IN LISTS SAMEBITS_ALL_ARCHS)
        if(known MATCHES "^${arch}a?$")
          list(APPEND SAMEBITS_CUDA_ARCHS ${known})
        endif()
      endforeach()
    endforeach()
    list(REMOVE_DUPLICATES SAMEBITS_CUDA_ARCHS)
  else()
    set(level STATUS)
    if(SAMEBITS_TORCH)
      set(level WARNING)  # a package is often built where its GPU is not
    endif()
    message(${level} "SAMEBITS_ARCHS=native, but no GPU is visible here: CPU only. For a GPU elsewhere set SAMEBITS_ARCHS to "
                     "all or to its architecture (${SAMEBITS_ALL_ARCHS}), with nvcc of CUDA 13.0 in reach.")
  endif()
endif()

foreach(arch IN LISTS SAMEBITS_CUDA_ARCHS)
  if(NOT arch IN_LIST SAMEBITS_ALL_ARCHS)
    message(FATAL_ERROR "SAMEBITS_ARCHS=${SAMEBITS_ARCHS}: ${arch} is not one of ${SAMEBITS_ALL_ARCHS}, nor is it all of "
                        "the list: all, native, none")
  endif()
endforeach()
if(capabilities AND NOT SAMEBITS_CUDA_ARCHS)
  message(WARNING "SAMEBITS_ARCHS=native: no kernels for compute capability ${capabilities}: CPU only")
endif()

find_program(SAMEBITS_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
if(SAMEBITS_CUDA_ARCHS AND NOT SAMEBITS_NVCC)
  set(level WARNING)
  if(NOT SAMEBITS_ARCHS STREQUAL "native")
    set(level FATAL_ERROR)  # asked for by name: pip shows no warning, and the package would lack them
  endif()
  message(${level} "SAMEBITS_ARCHS=${SAMEBITS_ARCHS} asks for ${SAMEBITS_CUDA_ARCHS}, but nvcc was not found: no GPU kernels. "
                   "Install the CUDA 13.0 toolkit or set CUDA_HOME; SAMEBITS_ARCHS=none is for the CPU only.")
  set(SAMEBITS_CUDA_ARCHS "")
endif()

if(SAMEBITS_CUDA_ARCHS)
  set(CMAKE_CUDA_COMPILER ${SAMEBITS_NVCC})
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # one -gencode for each object, below: ccache and build time want it so
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  set(CMAKE_CUDA_STANDARD 20)
  enable_language(CUDA)
  if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25.1 does not know that nvcc 12 and later take it
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  find_package(CUDAToolkit REQUIRED)
  file(GLOB venv_cutlass ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/cutlass_library/source/include)
  find_path(CUTLASS_INCLUDE_DIR cutlass/cutlass.h HINTS ${CUTLASS_DIR}/include $ENV{CUTLASS_DIR}/include ${venv_cutlass})
  if(NOT CUTLASS_INCLUDE_DIR)
    message(FATAL_ERROR "the CUTLASS 4.x headers were not found: run `make setup` (PyPI nvidia-cutlass into .venv) "
                        "or set CUTLASS_DIR to a CUTLASS tree")
  endif()
endif()
if(SAMEBITS_CUDA_ARCHS)
  message(STATUS "samebits: GPU architectures: ${SAMEBITS_CUDA_ARCHS}")
else()
  message(STATUS "samebits: GPU architectures: none, the CPU only (SAMEBITS_ARCHS=${SAMEBITS_ARCHS})")
endif()

# A CUTLASS unit takes 4 GB to compile: a pool sized by RAM keeps a small machine from swapping.
cmake_host_system_information(RESULT ram_mb QUERY TOTAL_PHYSICAL_MEMORY)
math(EXPR cutlass_jobs "${ram_mb} / 4096")
if(cutlass_jobs LESS 1)
  set(cutlass_jobs 1)
endif()
set_property(GLOBAL APPEND PROPERTY JOB_POOLS cutlass=${cutlass_jobs})

# One unit for each TILE row of src/cuda/sm<NN>.def, in namespace `table`. Rows:
# TILE(name, m, n, k, cluster m, cluster n, schedule, operands, order, out). Generated into the build tree, rewritten
# only when its row changes. `number` tells kernels of one source in two objects apart (mma.cuh).
function(samebits_tile_units def table number out)
  set(file ${PROJECT_SOURCE_DIR}/src/cuda/${def}.def)
  set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  file(STRINGS ${file} rows REGEX "^TILE\\(")
  set(units "")
  foreach(row IN LISTS rows)
    string(REGEX MATCH "^TILE\\((([a-z0-9_]+),[^)]*)\\)" _ "${row}")
    set(TILE_ROW "${CMAKE_MATCH_1}")
    set(unit ${CMAKE_BINARY_DIR}/tiles/${table}_${CMAKE_MATCH_2}.cu)
    set(TILE_TABLE ${def})
    set(TILE_HEADER ${def}.cuh)
    if(row MATCHES ", Ring[A-Za-z0-9]+,")  # our own kernels: CUTLASS's collectives need not be parsed
      set(TILE_HEADER ring.cuh)
    elseif(row MATCHES ", Warps[0-9]x[0-9],")
      set(TILE_HEADER mma.cuh)
    endif()
    set(TILE_DEFINE "#define SAMEBITS_TABLE ${table}\n#define SAMEBITS_TABLE_ARCH ${number}\n")
    configure_file(${PROJECT_SOURCE_DIR}/cmake/tile.cu.in ${unit} @ONLY)
    list(APPEND units ${unit})
  endforeach()
  set(${out} ${units} PARENT_SCOPE)
endfunction()

function(samebits_add_cuda target)
  if(NOT SAMEBITS_CUDA_ARCHS)
    target_sources(${target} PRIVATE src/cuda/none.cpp src/cuda/no_tables.cpp src/cuda/ring.cpp)
    return()
  endif()
  # Flags that all of them share are set below. The small kernels are the same source for every architecture: one
  # object, all of them.
  add_library(samebits_kernels OBJECT src/cuda/quantize.cu src/cuda/rows.cu src/cuda/compare.cu src/cuda/timing.cu)
  set(objects samebits_kernels)
  set(tables "")
  foreach(arch IN LISTS SAMEBITS_CUDA_ARCHS)
    target_compile_options(samebits_kernels PRIVATE -gencode=arch=compute_${arch},code=sm_${arch})
    string(REGEX REPLACE "a$" "" sm ${arch})
    list(APPEND tables SAMEBITS_SM${sm}=1)
    # The tables of an architecture, and the namespaces of their kernels in tables.cpp.
    set(defs sm${sm})
    set(names sm${sm})
    if(sm EQUAL 103)
      set(defs sm100)  # one table, two architectures
    elseif(sm EQUAL 86)
      set(defs sm80)
    elseif(sm EQUAL 89)
      set(defs sm89 sm80)
      set(names sm89 sm89_half)
    endif()
    set(all_units "")
    foreach(def name IN ZIP_LISTS defs names)
      samebits_tile_units(${def} ${name} ${sm} units)
      list(APPEND all_units ${units})
    endforeach()
    samebits_tile_objects(samebits_tiles_${arch} ${arch} "${all_units}")
    list(APPEND objects samebits_tiles_${arch})
  endforeach()
  set_property(SOURCE src/cuda/tables.cpp APPEND PROPERTY COMPILE_DEFINITIONS ${tables})
  foreach(object IN LISTS objects)
    samebits_cuda_flags(${object})
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${object}>)
  endforeach()
  target_sources(${target} PRIVATE src/cuda/device.cpp src/cuda/tables.cpp src/cuda/ring.cpp
                 src/cuda/tensor_map.cpp)
  target_link_libraries(${target} PRIVATE CUDA::cudart_static)
endfunction()

# An object library of the units for one architecture.
function(samebits_tile_objects object arch units)
  add_library(${object} OBJECT ${units})
  set_target_properties(${object} PROPERTIES JOB_POOL_COMPILE cutlass)
  target_compile_options(${object} PRIVATE -gencode=arch=compute_${arch},code=sm_${arch})
  if(arch STREQUAL "90a")
    # Without GDC CUTLASS's kernels do not wait for the previous one, and a dependent launch would race. CUTLASS 4.2's
    # pingpong kernel does not compile with it for sm_120, where launches are plain (sm120.cuh).
    target_compile_definitions(${object} PRIVATE CUTLASS_ENABLE_GDC_FOR_SM90=1)
  endif()
endfunction()

function(samebits_cuda_flags object)
  # Note: without NDEBUG the asserts of CUTLASS are calls, and ptxas then serialises wgmma.
  target_compile_definitions(${object} PRIVATE NDEBUG)
  target_compile_options(${object} PRIVATE --expt-relaxed-constexpr -Xcompiler=-ffp-contract=off,-fPIC -diag-suppress=2908)
  target_include_directories(${object} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
  target_include_directories(${object} SYSTEM PRIVATE ${CUTLASS_INCLUDE_DIR})
endfunction()

# Gives a program the tables with described kernels where the library has none: to choose, not to launch.
function(samebits_described_tables target)
  if(NOT SAMEBITS_CUDA_ARCHS)
    target_sources(${target} PRIVATE ${PROJECT_SOURCE_DIR}/src/cuda/tables.cpp
                                     ${PROJECT_SOURCE_DIR}/tests/described_kernels.cpp)
    target_compile_definitions(${target} PRIVATE SAMEBITS_SM80=1 SAMEBITS_SM86=1 SAMEBITS_SM89=1 SAMEBITS_SM90=1
                                                 SAMEBITS_SM100=1 SAMEBITS_SM103=1 SAMEBITS_SM120=1)
  endif()
endfunction()
