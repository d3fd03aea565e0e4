// Products of tiles, behind whose arithmetic the rows that come next are read: a head's rows lie far apart in memory,
// so the processor's own prefetchers do not find them.
#pragma once

#include <array>

#include "cpu/attention.h"
#include "cpu/tile.h"

namespace imgrec::cpu {

class RowPrefetch {
 public:
  template <class S>
  void add(HeadRows<S> from, std::int64_t first, std::int64_t rows, std::int64_t size) {
    runs_[count_++] = {reinterpret_cast<const char*>(from.row(first)), from.stride * std::int64_t(sizeof(S)), rows,
                       size * std::int64_t(sizeof(S))};
  }

  /// Asks for a few rows more. Called after each small product: more at a time than the caches can keep track of
  /// would hold the processor up.
  void advance() {
    for (int step = 0; step < rows_at_once && run_ < count_; ++step) {
      Run& run = runs_[run_];
      for (std::int64_t byte = 0; byte < run.row_bytes; byte += line_bytes) {
        constexpr int for_reading = 0, into_l2 = 2;
        __builtin_prefetch(run.data + byte, for_reading, into_l2);
      }
      run.data += run.stride_bytes;
      if (--run.rows <= 0) ++run_;
    }
  }

 private:
  static constexpr int rows_at_once = 12;
  static constexpr std::int64_t line_bytes = 64;

  struct Run {
    const char* data;
    std::int64_t stride_bytes, rows, row_bytes;
  };

  std::array<Run, 8> runs_;
  int count_ = 0, run_ = 0;
};

/// multiply_tile, a block of its micro-kernel at a time.
template <class T, Operand a_operand>
void multiply_and_prefetch(std::int64_t rows, std::int64_t columns, std::int64_t depth, const T* a, std::int64_t lda,
                           const T* b, std::int64_t ldb, T* c, std::int64_t ldc, bool add, RowPrefetch& prefetch) {
  constexpr std::int64_t block_rows = vector_registers == 32 ? 16 : 12, block_columns = 2 * lanes<T>;
  for (std::int64_t column = 0; column < columns; column += block_columns)
    for (std::int64_t row = 0; row < rows; row += block_rows, prefetch.advance())
      multiply_tile<T, a_operand>(std::min(block_rows, rows - row), std::min(block_columns, columns - column), depth,
                                  a + row * (a_operand == Operand::plain ? lda : 1), lda, b + column, ldb,
                                  c + row * ldc + column, ldc, add);
}

}  // namespace imgrec::cpu
