# `cmake --install` and the exported target samebits::samebits.
include(CMakePackageConfigHelpers)
install(TARGETS samebits EXPORT samebits_targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/samebits DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(SAMEBITS_CLI)
  install(TARGETS samebits_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
set(SAMEBITS_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/samebits)
install(EXPORT samebits_targets FILE samebits-targets.cmake NAMESPACE samebits:: DESTINATION ${SAMEBITS_CMAKE_DIR})
configure_package_config_file(cmake/samebits-config.cmake.in ${CMAKE_BINARY_DIR}/samebits-config.cmake
                              INSTALL_DESTINATION ${SAMEBITS_CMAKE_DIR})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/samebits-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/samebits-config.cmake ${CMAKE_BINARY_DIR}/samebits-config-version.cmake
        DESTINATION ${SAMEBITS_CMAKE_DIR})
