// The product of two matrices that both come row by row, A transposed times B: a sum of outer products, as the
// gradients of weights are.
#pragma once

#include "cpu/gemm.h"
#include "cpu/vector_io.h"

namespace imgrec::cpu {

/// Memory that is asked for while a product is computed, in equal steps; steps of 0 ask for nothing new.
template <class T>
struct Ahead {
  const T* first;
  std::int64_t step;
};

/// tile[r * ld + column] (+)= sum over k < depth of rows[k][offset + r] b[k * b_stride + column], for r < count <=
/// micro_rows and one vector of columns, or two where `wide`. A is read where it lies, through one pointer a row.
template <class T>
void add_outer_products(int count, bool wide, std::int64_t depth, const T* const* rows, std::int64_t offset, const T* b,
                        std::int64_t b_stride, T* tile, std::int64_t ld, bool first, Ahead<T> ahead);

/// How columns of A are cut into blocks: of micro_rows, but that where few are left over, the last two share them.
struct OuterBlocks {
  std::int64_t columns, count, large;  // large: how many blocks have micro_rows columns

  explicit OuterBlocks(std::int64_t columns)
      : columns(columns), count((columns + micro_rows - 1) / micro_rows), large(columns / micro_rows) {
    const std::int64_t left = columns - large * micro_rows;
    if (left > 0 && left < micro_rows / 2 && large > 0) --large;
  }

  /// The first column of a block.
  std::int64_t offset(std::int64_t block) const {
    if (block <= large) return block * micro_rows;
    const std::int64_t left = columns - large * micro_rows;
    return large * micro_rows + (block < count ? round_up((left + 1) / 2, 2) : left);
  }
  int size(std::int64_t block) const { return static_cast<int>(offset(block + 1) - offset(block)); }
};

/// to[c * stride + r] = tile[r * ld + c] for r < rows and c < columns; squares are transposed in registers.
template <class S>
void store_transposed(S* to, std::int64_t stride, const Compute<S>* tile, std::int64_t ld, std::int64_t rows,
                      std::int64_t columns) {
  using T = Compute<S>;
  for (std::int64_t row = 0; row < rows; row += lanes<T>) {
    const int some = static_cast<int>(std::min<std::int64_t>(lanes<T>, rows - row));
    for (std::int64_t column = 0; column < columns; column += lanes<T>) {
      Vector<T> square[lanes<T>] = {};
      for (int r = 0; r < some; ++r) square[r] = load(tile + (row + r) * ld + column);
      transpose<T>(square);
      for (int c = 0; c < std::min<std::int64_t>(lanes<T>, columns - column); ++c)
        store_narrow(to + (column + c) * stride + row, square[c], some);
    }
  }
}

}  // namespace imgrec::cpu
