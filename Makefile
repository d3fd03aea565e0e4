# The two commands for newcomers are `make demo` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -type f) CMakeLists.txt pyproject.toml

.PHONY: help dev
help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

dev:  ## build the extension in place with $(PYTHON), for work on the sources
	cmake -S . -B build/dev -DCMAKE_INSTALL_PREFIX=$(CURDIR) -Dpybind11_DIR=$$($(PYTHON) -m pybind11 --cmakedir) \
	  -DPython_EXECUTABLE=$$(command -v $(PYTHON)) -DIMGREC_CPU_LEVELS="$(or $(LEVELS),baseline;x86-64-v3;x86-64-v4)" > /dev/null
	cmake --build build/dev -j 2
	cmake --install build/dev > /dev/null
