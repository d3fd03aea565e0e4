#include "cpu/recurrent_kernel.h"

namespace imgrec::cpu {
namespace {

/// tile[0..R) [0..P micro_cols) = state panel times P matrix panels, each `depth` deep and one behind the other.
template <class T, int R, int P>
void multiply_panels(std::int64_t depth, const T* state, const T* matrix, T* tile, std::int64_t ld) {
  Vector<T> low[P][R] = {}, high[P][R] = {};
  for (std::int64_t k = 0; k < depth; k += lanes<T>, state += micro_rows * lanes<T>) {
    for (int lane = 0; lane < lanes<T>; ++lane, matrix += micro_cols<T>) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const T* from = matrix + p * depth * micro_cols<T>;
        const Vector<T> b_low = load(from), b_high = load(from + lanes<T>);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          low[p][r] += state[r * lanes<T> + lane] * b_low;
          high[p][r] += state[r * lanes<T> + lane] * b_high;
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      store(tile + r * ld + p * micro_cols<T>, low[p][r]);
      store(tile + r * ld + p * micro_cols<T> + lanes<T>, high[p][r]);
    }
  }
}

/// Few rows take several panels at once: only so are there enough independent sums to hide the latency of the
/// additions.
template <class T, int R>
void multiply_rows(int rows, int panels, std::int64_t depth, const T* state, const T* matrix, T* tile,
                   std::int64_t ld) {
  if constexpr (R > 1)
    if (constexpr int fewer = R > 2 ? R - 2 : 1; rows <= fewer)
      return multiply_rows<T, fewer>(rows, panels, depth, state, matrix, tile, ld);
  constexpr int together = R == 1 ? 4 : R == 2 ? 2 : 1;
  int panel = 0;
  for (; panel + together <= panels; panel += together)
    multiply_panels<T, R, together>(depth, state, matrix + panel * depth * micro_cols<T>, tile + panel * micro_cols<T>,
                                    ld);
  for (; panel < panels; ++panel)
    multiply_panels<T, R, 1>(depth, state, matrix + panel * depth * micro_cols<T>, tile + panel * micro_cols<T>, ld);
}

}  // namespace

template <class T>
void state_product(int rows, int panels, std::int64_t depth, const T* state, const T* matrix, T* tile,
                   std::int64_t ld) {
  multiply_rows<T, micro_rows>(rows, panels, depth, state, matrix, tile, ld);
}

template void state_product(int, int, std::int64_t, const float*, const float*, float*, std::int64_t);
template void state_product(int, int, std::int64_t, const double*, const double*, double*, std::int64_t);

}  // namespace imgrec::cpu
