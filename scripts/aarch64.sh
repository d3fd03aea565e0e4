#!/usr/bin/env bash
# The simulator on 64-bit Arm: compiles it, all CUDA kernels and the programs of tests/sim for aarch64, then runs the
# tests of tests/sim through qemu. Further arguments go to pytest. Exit status 77: a tool is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
compiler=${CXX:-aarch64-linux-gnu-g++}
emulator=${EMULATOR:-qemu-aarch64}
python=${PYTHON:-.venv/bin/python}
for tool in "$compiler" "$emulator"; do
  if ! command -v "$tool" >/dev/null; then
    echo "aarch64: $tool is not installed (Debian: g++-aarch64-linux-gnu, qemu-user)" >&2
    exit 77
  fi
done
build=build/aarch64
# The kernels of all families must compile; only the programs have a main to run.
make -s -f csrc/sim/program.mk -j2 BUILD="$build" CXX="$compiler" OPTIONS=-static SOURCES="tests/sim/*.cu" all kernels
IMGREC_SIM_PROGRAM="$emulator $build/program" "$python" -m pytest -q -p no:cacheprovider tests/sim "$@"
