# `make demo` and `make test` are for newcomers and need python3 (3.11 or later), g++ and make; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# With ON or AUTO all builds compile the kernels for GPUs as well, which takes minutes.
export IMGREC_CUDA ?= OFF
SOURCES := $(shell find csrc -type f) CMakeLists.txt pyproject.toml

.PHONY: help demo test test-slow test-levels test-sanitize lint types format dev cuda checked clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

demo: $(VENV)/.demo  ## train on real faces, then find the face in a photo (about 3 minutes)
	$(BIN)/python examples/demo.py --out runs/demo

test: $(VENV)/.test  ## the whole suite
	$(BIN)/python -m pytest -q

test-slow: $(VENV)/.test  ## the long proofs
	$(BIN)/python -m pytest -q -m slow

test-levels: $(VENV)/.test  ## the op table with the kernels for older processors
	$(BIN)/python -m pytest -q -m slow tests/test_levels.py

test-sanitize: $(VENV)/.dev  ## the kernels under address, undefined-behaviour and thread sanitizers
	scripts/sanitize.sh address,undefined
	scripts/sanitize.sh thread

lint: $(VENV)/.dev  ## style of Python and C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu')

types: $(VENV)/.dev  ## static types
	$(BIN)/mypy

format: $(VENV)/.dev  ## bring all sources into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu')

dev:  ## build the extension in place with $(PYTHON), for work on the sources
	cmake -S . -B build/dev -DCMAKE_INSTALL_PREFIX=$(CURDIR) -Dpybind11_DIR=$$($(PYTHON) -m pybind11 --cmakedir) \
	  -DPython_EXECUTABLE=$$(command -v $(PYTHON)) -DIMGREC_CPU_LEVELS="$(or $(LEVELS),baseline;x86-64-v3;x86-64-v4)" \
	  -DIMGREC_CUDA=$(IMGREC_CUDA) $(if $(CHECKED),-DIMGREC_SIM_CHECKED=ON) > /dev/null
	cmake --build build/dev -j 2
	cmake --install build/dev > /dev/null

cuda: IMGREC_CUDA := ON
cuda: dev  ## the same with the kernels for GPUs (needs nvcc, no GPU); prints their registers, shared memory and spills
	$(PYTHON) scripts/cuda_resources.py build/dev

checked:  ## the same with the simulator's checkers: IMGREC_SIM_CHECK=all then finds races and the like in kernels
	$(MAKE) dev CHECKED=ON

clean:  ## remove the virtual environment and all build products
	rm -rf $(VENV) build imgrec_engine/lib imgrec_engine/*.so imgrec_engine/_*.pyi

# One stamp for each set of extras; dev holds what test needs, and test what demo needs. The package is installed so that
# its Python files are used where they lie.
holds_dev := .test .demo
holds_test := .demo

# Tests want the simulator's checkers as well, which read source lines from the module: it keeps its symbols.
checkers := --config-settings=cmake.define.IMGREC_SIM_CHECKED=ON --config-settings=install.strip=false

$(VENV)/.%: $(SOURCES) | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[$*]" $(if $(filter test dev,$*),$(checkers))
	@touch $@ $(addprefix $(VENV)/,$(holds_$*))

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
