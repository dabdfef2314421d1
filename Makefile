# The two commands of the README are `make demo` and `make test`. PYTHON picks the interpreter, VENV the environment.
# On a machine with a GPU: `make test-gpu`, `make bench-gpu`. If PYTHON has a CUDA build of torch already, VENV is made on top of
# its packages and nothing is fetched that is there (PRESENT= asks for an environment of its own; WHEELS=folder has what lacks).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install -q
STAMP = $(VENV)/.installed
# torch: with an NVIDIA GPU the default (CUDA) build, without one the CPU build. The "+cpu" label exists only on CPU builds, so
# neither can be taken for the other (macOS has one build, without a label). To choose yourself: make TORCH=torch==2.12.1 ...,
# or install torch into $(VENV) first.
GPU := $(shell nvidia-smi -L 2>/dev/null | grep -c GPU)
ifneq ($(GPU),0)
TORCH ?= torch>=2.10
EXTRAS ?= test,lint,gpu
else ifeq ($(shell uname -s),Darwin)
TORCH ?= torch>=2.10
EXTRAS ?= test,lint
else
TORCH ?= torch==2.13.0+cpu
EXTRAS ?= test,lint
endif
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

ifneq ($(GPU),0)
PRESENT ?= $(shell $(PYTHON) -c "import torch; print(torch.version.cuda or '')" 2>/dev/null)
endif
WHEELS ?=
# seconds that `make test-gpu` and `make bench-gpu` may take
LIMIT ?=

.PHONY: demo test test-gpu lint format bench bench-gpu clean

ifneq ($(PRESENT),)
$(STAMP): pyproject.toml setup.py $(wildcard baselines/cpp/*) $(wildcard kernels/cuda/*)
	@echo "building gnnaccel on top of the packages of $(PYTHON)"
	@$(PYTHON) .ci/present "$(VENV)" "$(WHEELS)"
	@touch $@
else
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Without build isolation: the extension must be built against the torch that will load it.
$(STAMP): $(BIN)/python pyproject.toml setup.py $(wildcard baselines/cpp/*) $(wildcard kernels/cuda/*)
	@$(BIN)/python -c "import torch" 2>/dev/null || { echo "installing $(TORCH)"; \
	  $(PIP) "$(TORCH)" 2>/dev/null || $(PIP) "$(TORCH)" --index-url $(TORCH_CPU_INDEX); }
	@echo "installing gnnaccel[$(EXTRAS)] and building its C++ extension"
	@$(PIP) "setuptools>=77" wheel ninja
	@$(PIP) --no-build-isolation -e ".[$(EXTRAS)]"
	@touch $@
endif

demo: $(STAMP)
	$(BIN)/gnnaccel train tgn --data synthetic --out runs/demo --overwrite

test: $(STAMP)
	$(BIN)/python -m pytest
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m interpret

test-gpu: $(STAMP)
	$(BIN)/python tests/gpu.py $(if $(LIMIT),--limit $(LIMIT)) $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

bench: $(STAMP)
	$(BIN)/gnnaccel bench all

bench-gpu: $(STAMP)
	$(BIN)/python -m gnnaccel.bench.gpu $(if $(LIMIT),--limit $(LIMIT)) $(ARGS)

clean:
	rm -rf build dist *.egg-info gnnaccel/*.so
