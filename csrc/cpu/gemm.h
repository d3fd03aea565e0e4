// How matrix products are cut, and their second operand packed: C(m, n) = sum over k of A(m, k) B(k, n).
//
// After Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008):
//   - B is packed once into panels of `micro_cols` columns, laid out [panel][k][column], zero beyond the last column;
//   - a task owns a tile of C, and goes through k in blocks of `depth_block` values, so that what it reads stays in the
//     caches; for each a micro-kernel adds the product of `micro_rows` rows of A and a panel of B, in registers.
// Each element of C is a sum in one fixed order, whatever the tile sizes and the number of threads.
//
// The micro-kernels differ in how they read A: conv2d_gemm.cpp, for convolution and matmul, rows where they lie;
// outer_product.h columns where they lie; recurrent_kernel.h panels of gates or states.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "cpu/workspace.h"

namespace imgrec::cpu {

template <class T>
inline constexpr int micro_cols = 2 * lanes<T>;
inline constexpr int micro_rows = vector_registers == 32 ? 14 : 6;
inline constexpr std::int64_t depth_block = 256;
inline constexpr std::int64_t least_parallel_work = 1 << 17;  // multiply-adds
inline constexpr std::int64_t resident_bytes = 512 << 10;     // of B: half of a second-level cache

/// How a product is cut into tiles. A function of shapes and thread count.
template <class T>
struct GemmTiling {
  std::int64_t m, n, k, tile_rows, tile_cols, row_tiles, col_tiles;

  GemmTiling(const Context& context, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t batch = 1)
      : m(m), n(n), k(k) {
    tile_rows = std::min<std::int64_t>(round_up(std::max<std::int64_t>(m, 1), micro_rows), 8 * micro_rows);
    tile_cols = std::min<std::int64_t>(round_up(std::max<std::int64_t>(n, 1), micro_cols<T>), 16 * micro_cols<T>);
    // Smaller tiles where there would be too few to keep every thread at work; one where it ends sooner than another
    // thread could be told of it.
    std::int64_t wanted = batch * m * n * k < least_parallel_work ? 1 : 3 * context.threads;
    // Threads that write to the same rows of C take each other's lines: rows are cut first where all of B stays in
    // each thread's cache.
    if (n * k * static_cast<std::int64_t>(sizeof(T)) <= resident_bytes) {
      cut(tile_rows, micro_rows, micro_rows, batch, wanted);
      wanted = std::min<std::int64_t>(wanted, context.threads);
    }
    cut(tile_cols, 2 * micro_cols<T>, micro_cols<T>, batch, wanted);
    cut(tile_rows, 2 * micro_rows, micro_rows, batch, wanted);
    row_tiles = (m + tile_rows - 1) / tile_rows;
    col_tiles = (n + tile_cols - 1) / tile_cols;
  }

  std::int64_t count() const { return ((m + tile_rows - 1) / tile_rows) * ((n + tile_cols - 1) / tile_cols); }

  /// Halves an extent of the tiles until there are as many as wanted, or it is no more than `least`.
  void cut(std::int64_t& extent, std::int64_t least, std::int64_t step, std::int64_t batch, std::int64_t wanted) {
    while (batch * count() < wanted && extent > least) extent = round_up(extent / 2, step);
  }

  /// Elements of packed B.
  std::int64_t packed_size() const { return round_up(n, micro_cols<T>) * k; }
};

/// Packs B for the product. fill(to, k, column, count) writes the `count` elements B(k, column...) to `to`.
template <class T, class Fill>
void pack_columns(const Context& context, T* packed, std::int64_t n, std::int64_t k, Fill&& fill) {
  const std::int64_t panels = round_up(n, micro_cols<T>) / micro_cols<T>;
  const std::int64_t slices = (k + depth_block - 1) / depth_block;
  parallel_tasks(context, panels * slices, [&](std::int64_t task, int) {
    const std::int64_t column = task / slices * micro_cols<T>, first = task % slices * depth_block;
    const int count = static_cast<int>(std::min<std::int64_t>(micro_cols<T>, n - column));
    T* to = packed + column * k + first * micro_cols<T>;
    for (std::int64_t row = first; row < std::min(k, first + depth_block); ++row, to += micro_cols<T>) {
      fill(to, row, column, count);
      std::fill(to + count, to + micro_cols<T>, T(0));
    }
  });
}

/// Packs B where B(k, column) = from[column * depth + k], as pack_columns does: squares are transposed in registers.
template <class T>
void pack_transposed_columns(const Context& context, T* packed, const T* from, std::int64_t n, std::int64_t depth) {
  const std::int64_t panels = round_up(n, micro_cols<T>) / micro_cols<T>;
  const std::int64_t slices = (depth + depth_block - 1) / depth_block;
  parallel_tasks(context, panels * slices, [&](std::int64_t task, int) {
    const std::int64_t column = task / slices * micro_cols<T>, first = task % slices * depth_block;
    for (std::int64_t k = first; k < std::min(depth, first + depth_block); k += lanes<T>) {
      const int rows = static_cast<int>(std::min<std::int64_t>(lanes<T>, depth - k));
      for (int half = 0; half < micro_cols<T>; half += lanes<T>) {
        Vector<T> square[lanes<T>];
        for (int c = 0; c < lanes<T>; ++c) {
          const T* line = from + (column + half + c) * depth + k;
          square[c] = column + half + c >= n ? Vector<T>{} : rows == lanes<T> ? load(line) : load_partial(line, rows);
        }
        transpose<T>(square);
        T* to = packed + column * depth + k * micro_cols<T> + half;
        for (int r = 0; r < rows; ++r) store(to + r * micro_cols<T>, square[r]);
      }
    }
  });
}

}  // namespace imgrec::cpu
