// The product at the heart of every time step: a panel of rows of the state times a packed matrix.
//
// A state panel is laid out [k / micro_cols][row][micro_cols], so that the gates, which come as vectors along k, are
// stored as they are and no transposition stands between two steps; the matrix is packed as in gemm.h,
// [panel][k][column].
#pragma once

#include "cpu/gemm.h"

namespace imgrec::cpu {

/// Elements of a state panel of `depth` values a row.
template <class T>
constexpr std::int64_t state_panel_size(std::int64_t depth) {
  return round_up(depth, micro_cols<T>) * micro_rows;
}

/// How far the blocks of micro_cols values of a state panel lie apart.
template <class T>
inline constexpr std::int64_t state_stride = micro_rows * micro_cols<T>;

/// Where the vector of row `row` that begins at k, a multiple of lanes, lies in a state panel.
template <class T>
constexpr std::int64_t state_offset(std::int64_t row, std::int64_t k) {
  return k / micro_cols<T> * state_stride<T> + row * micro_cols<T> + k % micro_cols<T>;
}

/// Asks for memory that is needed after the next product, which uses up L1. Inlined by force: GCC takes a function that
/// only asks for one without effect, and drops the call.
[[gnu::always_inline]] inline void prefetch(const void* begin, std::int64_t bytes) {
  constexpr int line_bytes = 64, for_reading = 0, into_l2 = 2;
  for (std::int64_t byte = 0; byte < bytes; byte += line_bytes)
    __builtin_prefetch(static_cast<const char*>(begin) + byte, for_reading, into_l2);
}

/// to[r] [column, column + panels micro_cols) = initial + state panel times `panels` matrix panels, each `depth` deep
/// and one behind the other, for any number of rows up to micro_rows. Every row begins with the same `initial`, or with
/// zeros where that is null. The blocks of the state lie `stride` apart; one more row of them may be read, but nothing
/// is made of it. Each sum has the same order in every case.
template <class T>
void state_product(int rows, int panels, std::int64_t depth, const T* state, std::int64_t stride, const T* matrix,
                   const T* initial, T* const* to, std::int64_t column);

}  // namespace imgrec::cpu
