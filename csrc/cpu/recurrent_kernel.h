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

/// tile[0..rows) [0..panels micro_cols) = state panel times `panels` matrix panels, each `depth` deep and one behind
/// the other, for any number of rows up to micro_rows. Each sum has the same order in every case.
template <class T>
void state_product(int rows, int panels, std::int64_t depth, const T* state, const T* matrix, T* tile, std::int64_t ld);

}  // namespace imgrec::cpu
