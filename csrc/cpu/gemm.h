// The matrix product under matmul, convolution and recurrence: C(m, n) = sum over k of A(m, k) B(k, n).
//
// After Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008):
//   - B is packed once into panels of `micro_cols` columns, laid out [panel][k][column], zero beyond the last column;
//   - a task owns a tile of C. For each block of `depth_block` values of k it packs its rows of A into panels of
//     `micro_rows` rows, [panel][k][row], and lets the micro-kernel add their product to the tile;
//   - when all of k is done, the caller's `store` writes the tile to its place, with bias, activation or rounding.
// Each element of C is a sum in one fixed order, whatever the tile sizes and the number of threads.
//
// Where A and B come from is the caller's affair (strided matrices, image patches, 16-bit types): it hands in functions
// that fill panels. Everything is computed in T, float or double.
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

/// tile[0..R) [0..micro_cols) (+)= A panel times B panel over `depth` values of k.
template <class T, int R>
inline void micro_kernel(std::int64_t depth, const T* a, const T* b, T* tile, std::int64_t ld, bool first) {
  Vector<T> low[R], high[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    low[r] = first ? Vector<T>{} : load(tile + r * ld);
    high[r] = first ? Vector<T>{} : load(tile + r * ld + lanes<T>);
  }
  for (std::int64_t k = 0; k < depth; ++k, a += micro_rows, b += micro_cols<T>) {
    const Vector<T> b_low = load(b), b_high = load(b + lanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      low[r] += a[r] * b_low;
      high[r] += a[r] * b_high;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    store(tile + r * ld, low[r]);
    store(tile + r * ld + lanes<T>, high[r]);
  }
}

template <class T>
inline void micro_kernel(int rows, std::int64_t depth, const T* a, const T* b, T* tile, std::int64_t ld, bool first) {
  if (rows == 1) return micro_kernel<T, 1>(depth, a, b, tile, ld, first);
  if (rows <= 4) return micro_kernel<T, 4>(depth, a, b, tile, ld, first);
  micro_kernel<T, micro_rows>(depth, a, b, tile, ld, first);
}

/// How a product is cut into tiles, and the scratch memory that takes. A function of shapes and thread count.
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
  /// Elements of scratch for one thread: the tile of C and a block of packed A.
  std::int64_t scratch_size() const { return tile_rows * (tile_cols + depth_block); }
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

/// Computes one tile of C. fill(panel, row, rows, k, depth) writes panel[i * micro_rows + r] = A(row + r, k + i) for r
/// < rows (what lies beyond is never stored); store(tile, ld, row, rows, column, columns) receives the finished sums.
template <class T, class FillA, class Store>
void gemm_tile(const GemmTiling<T>& tiling, std::int64_t tile, const T* packed_b, T* scratch, FillA&& fill,
               Store&& store) {
  const std::int64_t row = tile % tiling.row_tiles * tiling.tile_rows;
  const std::int64_t column = tile / tiling.row_tiles * tiling.tile_cols;
  const std::int64_t rows = std::min(tiling.tile_rows, tiling.m - row);
  const std::int64_t columns = std::min(tiling.tile_cols, tiling.n - column);
  const std::int64_t ld = tiling.tile_cols;
  T* sums = scratch;
  T* panels = scratch + tiling.tile_rows * tiling.tile_cols;
  if (tiling.k == 0) std::fill(sums, sums + tiling.tile_rows * ld, T(0));
  for (std::int64_t k = 0; k < tiling.k; k += depth_block) {
    const std::int64_t depth = std::min(depth_block, tiling.k - k);
    for (std::int64_t r = 0; r < rows; r += micro_rows)
      fill(panels + r * depth_block, row + r, static_cast<int>(std::min<std::int64_t>(micro_rows, rows - r)), k, depth);
    for (std::int64_t c = 0; c < columns; c += micro_cols<T>) {
      const T* b = packed_b + (column + c) * tiling.k + k * micro_cols<T>;
      for (std::int64_t r = 0; r < rows; r += micro_rows)
        micro_kernel<T>(static_cast<int>(std::min<std::int64_t>(micro_rows, rows - r)), depth, panels + r * depth_block,
                        b, sums + r * ld + c, ld, k == 0);
    }
  }
  store(static_cast<const T*>(sums), ld, row, rows, column, columns);
}

/// The whole product, its tiles spread over the threads. `scratch` holds tiling.scratch_size() elements a thread.
template <class T, class FillA, class Store>
void gemm(const Context& context, const GemmTiling<T>& tiling, const T* packed_b, T* scratch, FillA&& fill,
          Store&& store) {
  parallel_tasks(context, tiling.row_tiles * tiling.col_tiles, [&](std::int64_t tile, int worker) {
    gemm_tile(tiling, tile, packed_b, scratch + worker * tiling.scratch_size(), fill, store);
  });
}

}  // namespace imgrec::cpu
