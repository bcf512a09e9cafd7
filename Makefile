# The project's commands. Each is complete on a machine with python3 >= 3.10, make and a C++ compiler.
#
#   make demo       train on handwritten digits: torch's optimizer and scheduler against FusedSGD
#   make demo-distributed   kills a training of two processes, goes on with four, and compares the losses with those of one process
#   make test       the test-suite, on one process for each core, eight at most; PYTEST_WORKERS=0 for a single one
#   make fuzz       for an hour (FUZZ_SECONDS): what users do between steps, in sequences that no other run makes; FUZZ_ARGS=--help
#   make test-interrupts   an interrupt at every line of the package that an action runs through; `make test` tries a sample
#   make test-integrations   trainings by Hugging Face, Lightning, timm and others, in an environment of its own, INTEGRATIONS_VENV
#   make test-torch-matrix   the test-suite with each minor version of torch, TORCHS for some of them: writes docs/support.md
#   make first-minutes   times installing, the first step, the demo and the tests in an empty home: writes docs/support.md
#   make lint       ruff, mypy, clang-format
#   make docs       the documentation's site, into out/site
#   make wheels     into dist/: the source distribution, and a wheel for each minor version of torch, or for each of TORCHS='2.13.0 newest',
#                   with the extension built ahead of time. Each is built in an environment of its own, VENV-torch-VERSION, and tried
#                   as test-stranger does. The environment, of up to 5.6 GB, is removed then
#   make test-stranger WHEEL=dist/...whl   installs a wheel into an empty environment, and does what the first pages say;
#                   STRANGER_ARGS=--help
#   make bench      timings against torch's optimizers and the memory's limit: writes docs/performance.md, a quarter of an hour;
#                   BENCH_ARGS=--smoke for a short run that writes nothing, --compiled for all that torch can compile
#   make bench-instructions   counts the instructions of a step into docs/performance.md; needs valgrind
#   make convergence   trains under each schedule and writes docs/convergence.md: a quarter of an hour; BENCH_ARGS=--smoke for a short run
#   make test-emulated   the test-suite on the CUDA kernels, which the host compiler builds and tests/emulation runs
#   make test-asan       the same under AddressSanitizer and UBSan
#   make test-aarch64   the CPU's loops, built for aarch64 and run by qemu, leave the bits of the extension here; needs a cross compiler and qemu
#   make test-gpu   the test-suite with device="cuda"; GPU_RUNNER is put in front of the command
#   make bench-gpu  timings on a GPU against torch's optimizers and a copy of the same bytes; BENCH_ARGS=--smoke for a tiny run,
#                   --compiled for torch's compiled steps too
#
# To choose: PYTHON, VENV (without spaces), TORCH (a requirement such as TORCH='torch==2.13.0', with a VENV of its own), PYTEST_ARGS, PYTEST_WORKERS, BENCH_ARGS,
# and the environment variables of the build: FORCE_CUDA, SGDR_FUSED_CUDA, TORCH_CUDA_ARCH_LIST, CUDA_HOME, CXX, MAX_JOBS. CUDA code is built
# where torch sees a GPU, and with FORCE_CUDA=1.

PYTHON ?= python3
VENV ?= .venv
INTEGRATIONS_VENV ?= $(VENV)-integrations
TORCH ?=
TORCHS ?=
GPU_RUNNER ?=
PYTEST_ARGS ?=
PYTEST_WORKERS ?= auto
FUZZ_SECONDS ?= 3600
FUZZ_ARGS ?=
BENCH_ARGS ?=
WHEEL ?=
STRANGER_ARGS ?=

ifneq ($(words $(VENV)),1)
$(error VENV must be a path without spaces, which make takes for several files, got '$(VENV)')
endif
BIN := $(VENV)/bin
# Idle threads of one worker would keep a core of another one busy with waiting, if they did not sleep.
ifeq ($(PYTEST_WORKERS),0)
PYTEST = $(BIN)/python -m pytest $(PYTEST_ARGS)
else
PYTEST = OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --maxprocesses=8 --dist=worksteal $(PYTEST_ARGS)
endif
SOURCES := $(shell find csrc -type f)
EMULATION := $(shell find tests/emulation tests/machines -name '*.h' -o -name '*.cpp')
# Recorded in the environment, so that a call with others does not pass for done: what is installed, and how the extension
# is built. Whether there is a GPU is told by its driver's files, which takes no time, and which of them torch sees by the
# variable.
BUILD_SETTINGS = cuda:$(FORCE_CUDA):$(SGDR_FUSED_CUDA):$(TORCH_CUDA_ARCH_LIST):$(CUDA_HOME):$(CXX) \
  gpu:$(if $(wildcard /dev/nvidia[0-9]* /dev/dxg),yes,no):$(CUDA_VISIBLE_DEVICES)

.PHONY: demo demo-distributed test fuzz test-interrupts test-integrations integrations test-torch-matrix first-minutes lint docs wheels wheel test-stranger bench bench-instructions convergence test-emulated test-asan test-aarch64 aarch64-tools test-gpu bench-gpu build cuda-code clean always
.DELETE_ON_ERROR:
.NOTPARALLEL: # pip and pip in one environment; compilers run in parallel all the same

demo: $(VENV)/installed-demo build
	$(BIN)/python examples/digits.py

demo-distributed: $(VENV)/installed-demo build
	$(BIN)/python examples/distributed_demo.py

test: $(VENV)/installed-test build
	$(PYTEST)

fuzz: $(VENV)/installed-test build
	PYTHONPATH=.:tests:tests/support $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

test-interrupts: $(VENV)/installed-test build
	SGDR_FUSED_INTERRUPTS=all $(BIN)/python -m pytest tests/engine/test_interrupts.py $(PYTEST_ARGS)

# What frameworks need may not fit what other commands need.
test-integrations:
	$(MAKE) VENV=$(INTEGRATIONS_VENV) integrations

integrations: $(VENV)/installed-integrations build
	$(GPU_RUNNER) $(BIN)/python -m pytest tests/integrations $(PYTEST_ARGS)

test-torch-matrix: $(VENV)/installed-bench
	$(BIN)/python benchmarks/torch_matrix.py $(TORCHS) $(if $(PYTEST_ARGS),--pytest-args="$(PYTEST_ARGS)") $(if $(GPU_RUNNER),--gpu-runner="$(GPU_RUNNER)")

first-minutes: $(VENV)/installed-bench
	$(BIN)/python benchmarks/first_minutes.py

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(SOURCES) $(EMULATION) $(wildcard benchmarks/*.c benchmarks/*.cpp)

# The API is read from the sources, so nothing has to be built. What the variable silences is said in mkdocs.yml.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheels:
	@set -e; releases=$$($(PYTHON) benchmarks/torch_releases.py $(TORCHS)); for torch in $$releases; do \
	  $(MAKE) VENV="$(VENV)-torch-$$torch" TORCH="torch==$$torch" wheel; rm -rf "$(VENV)-torch-$$torch"; done

# From the source distribution, so that it has to be complete, and so that nothing of what was built in the checkout gets
# into the wheel. What fails leaves nothing in dist/.
wheel: $(VENV)/installed-wheels
	rm -rf $(VENV)/dist
	$(BIN)/python -m build --sdist --no-isolation --outdir $(VENV)/dist
	SGDR_FUSED_NAME_TORCH=1 $(BIN)/python -m pip wheel --no-build-isolation --no-deps --wheel-dir $(VENV)/dist $(VENV)/dist/*.tar.gz
	$(BIN)/python -m twine check --strict $(VENV)/dist/*
	$(BIN)/python tests/installation/stranger.py --torch-of $(BIN)/python $(VENV)/dist/*.whl
	mkdir -p dist
	mv $(VENV)/dist/* dist/

test-stranger:
	$(PYTHON) tests/installation/stranger.py $(STRANGER_ARGS) '$(WHEEL)'

bench: $(VENV)/installed-bench build
	$(BIN)/python -m pytest benchmarks --benchmark-columns=median,iqr,rounds $(BENCH_ARGS) $(PYTEST_ARGS)

bench-instructions: $(VENV)/installed-bench build
	$(BIN)/python benchmarks/instructions.py --write

convergence: $(VENV)/installed-convergence build
	$(BIN)/python benchmarks/convergence.py $(BENCH_ARGS)

test-emulated: $(VENV)/installed-test
	SGDR_FUSED_TEST_DEVICE=emulated_cuda $(PYTEST)

# The sanitizers' libraries have to be there before Python's. Python does not free everything at its end.
SANITIZERS = $(foreach name,asan ubsan,$(shell $(CXX) -print-file-name=lib$(name).so))
test-asan: $(VENV)/installed-test
	SGDR_FUSED_TEST_DEVICE=emulated_cuda SGDR_FUSED_SANITIZE=1 ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$(SANITIZERS)" $(PYTEST)

test-aarch64: aarch64-tools $(VENV)/installed-test build
	$(BIN)/python -m pytest tests/machines $(PYTEST_ARGS)

# The tests are skipped where these programs are missing. Who asks for them by name wants to hear of it.
aarch64-tools:
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do \
	  command -v $$tool > /dev/null || { echo "$$tool not found: apt install g++-aarch64-linux-gnu qemu-user"; exit 1; }; done

test-gpu: $(VENV)/installed-test cuda-code
	SGDR_FUSED_TEST_DEVICE=cuda $(GPU_RUNNER) $(BIN)/python -m pytest $(PYTEST_ARGS)

bench-gpu: $(VENV)/installed-bench cuda-code
	$(GPU_RUNNER) $(BIN)/python benchmarks/gpu.py $(BENCH_ARGS)

build: $(VENV)/built

# Into the checkout, incrementally. Loading it once shows what is wrong with it, if anything; then the next call tries again.
$(VENV)/built: $(VENV)/settings $(VENV)/build-settings setup.py sgdr_fused/_native/toolchain.py $(SOURCES) | $(VENV)/installed
	$(BIN)/python setup.py --quiet build_ext --inplace
	@if $(BIN)/python -c 'from sgdr_fused._native import backends; raise SystemExit(backends.load() is None)'; then touch $@; fi

cuda-code: build
	@$(BIN)/python -c 'import sys; from sgdr_fused._native import backends as b; sys.exit(None if getattr(b.load(), "has_cuda", False) else $(NO_CUDA))'

# What each command needs, and no more. The isolated build of the editable install has no torch, so it compiles nothing;
# what is compiled to bytecode where it is imported need not be where it is installed, which takes as long again.
# FORCE_CUDA would make the isolated build an error.
INSTALL = env -u FORCE_CUDA $(BIN)/python -m pip install --disable-pip-version-check --no-compile $(if $(TORCH),'$(TORCH)') --editable

$(VENV)/installed-%: $(VENV)/settings pyproject.toml
	$(INSTALL) '.[build,$*]'
	@touch $(VENV)/installed $@

$(VENV)/installed: $(VENV)/settings pyproject.toml
	$(INSTALL) '.[build]'
	@touch $@

# Written last, so an environment that is half made is made again.
$(VENV)/settings: always
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed: PYTHON=..." if sys.version_info < (3, 10) else 0)'
	@test -f $@ || { echo "Making the environment $(VENV), once: it takes two or three minutes, compiling included, and $(SIZE)."; \
	  $(PYTHON) -m venv $(VENV); }
	@$(call record,$(TORCH))

$(VENV)/build-settings: $(VENV)/settings always
	@$(call record,$(BUILD_SETTINGS))

NO_CUDA = f"The extension has no CUDA code: {b._no_cuda}"
SIZE = 5.6 GB on the disk (1.1 GB where TORCH names a build for the CPU alone)
# Whole or not at all.
record = echo '$(1)' | cmp -s - $@ || { echo '$(1)' > $@.new && mv $@.new $@; }

clean:
	rm -rf build dist *.egg-info sgdr_fused/*.so sgdr_fused/_C.*.json $(VENV)
