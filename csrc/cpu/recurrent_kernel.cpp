#include "cpu/recurrent_kernel.h"

namespace imgrec::cpu {
namespace {

/// R is `rows`, rounded up to a number that is compiled.
template <class T, int R, int P>
void multiply_panels(int rows, std::int64_t depth, const T* state, std::int64_t stride, const T* matrix,
                     const T* initial, T* const* to, std::int64_t column) {
  // A wide layer's matrix comes from L3, where the processor looks ahead to the end of a page alone; and the rows of a
  // product may lie far apart. Few rows wait for the matrix in L2 whatever is asked for.
  constexpr bool asks_ahead = R > 4;
  constexpr int for_reading = 0, into_l2 = 2, matrix_ahead = 64 * micro_cols<T>;
  Vector<T> low[P][R], high[P][R];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      low[p][r] = initial ? load(initial + p * micro_cols<T>) : Vector<T>{};
      high[p][r] = initial ? load(initial + p * micro_cols<T> + lanes<T>) : Vector<T>{};
    }
  }
  for (std::int64_t k = 0; k < depth; k += micro_cols<T>, state += stride) {
    const T* const end = state + std::min<std::int64_t>(micro_cols<T>, depth - k);
    const T* ahead = state + stride;  // the rows' next values, R at a time
    for (const T* from = state; from < end; ++from, matrix += micro_cols<T>, ahead += R) {
      if constexpr (asks_ahead) __builtin_prefetch(ahead, for_reading, into_l2);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const T* const b = matrix + p * depth * micro_cols<T>;
        if constexpr (asks_ahead) prefetch(b + matrix_ahead, micro_cols<T> * sizeof(T));
        const Vector<T> b_low = load(b), b_high = load(b + lanes<T>);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          low[p][r] += from[r * micro_cols<T>] * b_low;
          high[p][r] += from[r * micro_cols<T>] * b_high;
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      if (r >= rows) break;
      store(to[r] + column + p * micro_cols<T>, low[p][r]);
      store(to[r] + column + p * micro_cols<T> + lanes<T>, high[p][r]);
    }
  }
}

/// Few rows take several panels at once: only so are there enough independent sums to hide the latency of the
/// additions, and enough of them for each element of the state that is read.
template <int R>
constexpr int panels_together() {
  constexpr int fit = (vector_registers - vector_registers / 8) / (2 * R);
  return fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
}

template <class T, int R>
void multiply_rows(int rows, int panels, std::int64_t depth, const T* state, std::int64_t stride, const T* matrix,
                   const T* initial, T* const* to, std::int64_t column) {
  if constexpr (R > 1)
    if (constexpr int fewer = R > 2 ? R - 2 : 1; rows <= fewer)
      return multiply_rows<T, fewer>(rows, panels, depth, state, stride, matrix, initial, to, column);
  constexpr int together = panels_together<R>();
  const auto at = [&](int panel) { return initial ? initial + panel * micro_cols<T> : nullptr; };
  int panel = 0;
  for (; panel + together <= panels; panel += together)
    multiply_panels<T, R, together>(rows, depth, state, stride, matrix + panel * depth * micro_cols<T>, at(panel), to,
                                    column + panel * micro_cols<T>);
  for (; panel < panels; ++panel)
    multiply_panels<T, R, 1>(rows, depth, state, stride, matrix + panel * depth * micro_cols<T>, at(panel), to,
                             column + panel * micro_cols<T>);
}

}  // namespace

template <class T>
void state_product(int rows, int panels, std::int64_t depth, const T* state, std::int64_t stride, const T* matrix,
                   const T* initial, T* const* to, std::int64_t column) {
  multiply_rows<T, micro_rows>(rows, panels, depth, state, stride, matrix, initial, to, column);
}

#define IMGREC_INSTANTIATE(T)                                                                                \
  template void state_product(int, int, std::int64_t, const T*, std::int64_t, const T*, const T*, T* const*, \
                              std::int64_t);
IMGREC_INSTANTIATE(float)
IMGREC_INSTANTIATE(double)
#undef IMGREC_INSTANTIATE

}  // namespace imgrec::cpu
