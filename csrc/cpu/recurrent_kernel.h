// The product at the heart of every time step: a panel of rows of the state times the packed recurrent matrix.
//
// The state panel is laid out [k / lanes][row][lanes], so that the gates, which come as vectors along k, are stored as
// they are and no transposition stands between two steps; the matrix is packed as in gemm.h, [panel][k][column].
#pragma once

#include "cpu/gemm.h"

namespace imgrec::cpu {

/// Elements of a state panel of `depth` (a multiple of lanes) values a row.
constexpr std::int64_t state_panel_size(std::int64_t depth) { return depth * micro_rows; }

/// Where the vector of row `row` that begins at k lies in a state panel.
template <class T>
constexpr std::int64_t state_offset(std::int64_t row, std::int64_t k) {
  return k * micro_rows + row * lanes<T>;
}

/// tile[0..R) [0..P micro_cols) = state panel times P matrix panels, each `depth` deep and one behind the other.
template <class T, int R, int P>
void state_product(std::int64_t depth, const T* state, const T* matrix, T* tile, std::int64_t ld) {
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

/// The same for any number of rows up to micro_rows and of panels. Few rows take several panels at once: only so are
/// there enough independent sums to hide the latency of the additions. Each sum has the same order in every case.
template <class T, int R = micro_rows>
void state_product(int rows, int panels, std::int64_t depth, const T* state, const T* matrix, T* tile,
                   std::int64_t ld) {
  if constexpr (R > 1)
    if (constexpr int fewer = R > 2 ? R - 2 : 1; rows <= fewer)
      return state_product<T, fewer>(rows, panels, depth, state, matrix, tile, ld);
  constexpr int together = R == 1 ? 4 : R == 2 ? 2 : 1;
  int panel = 0;
  for (; panel + together <= panels; panel += together)
    state_product<T, R, together>(depth, state, matrix + panel * depth * micro_cols<T>, tile + panel * micro_cols<T>,
                                  ld);
  for (; panel < panels; ++panel)
    state_product<T, R, 1>(depth, state, matrix + panel * depth * micro_cols<T>, tile + panel * micro_cols<T>, ld);
}

}  // namespace imgrec::cpu
