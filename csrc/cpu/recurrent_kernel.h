// The product at the heart of every time step: a panel of rows of the state times a packed matrix.
//
// A state panel is laid out [k / lanes][row][lanes], so that the gates, which come as vectors along k, are stored as
// they are and no transposition stands between two steps; the matrix is packed as in gemm.h, [panel][k][column].
#pragma once

#include "cpu/gemm.h"

namespace imgrec::cpu {

/// Elements of a state panel of `depth` values a row.
template <class T>
constexpr std::int64_t state_panel_size(std::int64_t depth) {
  return round_up(depth, lanes<T>) * micro_rows;
}

/// Where the vector of row `row` that begins at k, a multiple of lanes, lies in a state panel.
template <class T>
constexpr std::int64_t state_offset(std::int64_t row, std::int64_t k) {
  return k * micro_rows + row * lanes<T>;
}

/// to[r] [column, column + panels micro_cols) = initial + state panel times `panels` matrix panels, each `depth` deep
/// and one behind the other, for any number of rows up to micro_rows. Every row begins with the same `initial`, or with
/// zeros where that is null. Each sum has the same order in every case.
template <class T>
void state_product(int rows, int panels, std::int64_t depth, const T* state, const T* matrix, const T* initial,
                   T* const* to, std::int64_t column);

}  // namespace imgrec::cpu
