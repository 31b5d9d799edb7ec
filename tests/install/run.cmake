# Installs the build into a scratch prefix, builds the quick start against it and runs it. Called by ctest:
# cmake -D BUILD=<build folder> -D SOURCE=<this folder> -D README=<README.md> -D GENERATOR=<name> -D COMPILER=<c++> -P run.cmake
set(scratch ${BUILD}/install-test)
file(REMOVE_RECURSE ${scratch})

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

# The README shows this very file.
file(READ ${SOURCE}/quickstart.cpp program)
file(READ ${README} readme)
string(FIND "${readme}" "${program}" found)
if(found EQUAL -1)
  message(FATAL_ERROR "README.md does not show tests/install/quickstart.cpp as it is")
endif()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${scratch}/prefix)
run(${CMAKE_COMMAND} -S ${SOURCE} -B ${scratch}/build -G ${GENERATOR} -D CMAKE_PREFIX_PATH=${scratch}/prefix
    -D CMAKE_CXX_COMPILER=${COMPILER})
run(${CMAKE_COMMAND} --build ${scratch}/build)
run(${scratch}/build/quickstart)
run(${scratch}/prefix/bin/samebits --version)
