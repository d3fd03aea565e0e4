#!/usr/bin/env bash
# Runs the tests that drive the kernels under sanitizers: scripts/sanitize.sh address,undefined | thread
# Further arguments go to pytest in place of the tests named below.
# A planted bug must be reported first, so that silence means something.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:?usage: scripts/sanitize.sh address,undefined | thread}
python=${PYTHON:-.venv/bin/python}
place=build/sanitize-${kind//,/-}
root=$PWD/$place/root
runtime=$([ "$kind" = thread ] && echo tsan || echo asan)
# Python itself is not instrumented: its own leaks and its locks are not our affair.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS="halt_on_error=1 report_signal_unsafe=0 suppressions=$PWD/$place/suppressions"

mkdir -p "$place"
printf 'race:%s\n' libtorch libgomp openblas >"$place/suppressions"  # the peers' threads are not instrumented either
cat >"$place/planted.cpp" <<'CPP'
#include <thread>
int main(int count, char**) {
  int* values = new int[4];
  std::thread other([=] { values[0] = count; });
  values[0] = 2;
  other.join();
  return values[3 + count];
}
CPP
g++ -std=c++20 -g -fsanitize="$kind" "$place/planted.cpp" -o "$place/planted" -pthread
if "$place/planted" 2>"$place/planted.log"; then
  echo "sanitize: the planted bug was not reported" >&2
  exit 1
fi
grep -qE "ERROR: AddressSanitizer|WARNING: ThreadSanitizer" "$place/planted.log"

# One level serves: AVX2 where there is any.
cmake -S . -B "$place" -DCMAKE_INSTALL_PREFIX="$root" -DIMGREC_SANITIZE="$kind" \
  -DIMGREC_CPU_LEVELS=baseline -DIMGREC_CUDA=OFF -DCMAKE_CXX_FLAGS="${CXXFLAGS-$(grep -q avx2 /proc/cpuinfo && echo -march=x86-64-v3)}" \
  -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >/dev/null
cmake --build "$place" -j 2
rm -rf "$root"
mkdir -p "$root"
cp -r imgrec_engine "$root/"
rm -rf "$root"/imgrec_engine/lib "$root"/imgrec_engine/*.so
cmake --install "$place" >/dev/null
# Not under them: what needs a sanitizer-free child (fork with threads, limits on address space).
tests=(tests/test_{ops,bindings,threads,conv2d,recurrent,attention,norm,pool2d}.py
  -k "not forked_child and not out_of_memory")
(($# > 1)) && tests=("${@:2}")
# An editable installation would lead back to the package in this folder.
cat >"$root/sitecustomize.py" <<'PY'
import sys

sys.meta_path = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("_editable")]
PY
# Python is linked with neither the sanitizers nor the C++ library that they look into. It must find the copy just made,
# not the package in this folder.
export PYTHONPATH=$root PYTHONSAFEPATH=1 IMGREC_NUM_THREADS=2 IMGREC_TEST_EXAMPLES=${IMGREC_TEST_EXAMPLES:-5}
export LD_PRELOAD="$(g++ -print-file-name=lib$runtime.so) $(g++ -print-file-name=libstdc++.so.6)"
"$python" -c "from imgrec_engine import _cpu; assert _cpu.__file__.startswith('$root'), _cpu.__file__"
# A report goes to the terminal: the process that makes it ends at once.
"$python" -m pytest -q -p no:cacheprovider --capture=sys "${tests[@]}"
