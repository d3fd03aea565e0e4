// What the main loops of matrix products, simt.h and tensor_core.h, have in common:
//
//   C(m, n) = sum over k of A(m, k) B(k, n)        m < rows, n < columns, first <= k < last
//
// A and B are not pointers but sources: A's lines are its rows, B's lines are its columns, and a source says what lies
// at (line, k). What depends on the line alone and on k alone is computed apart, so that a loop computes neither twice:
//
//   struct Source {
//     static constexpr bool depth_contiguous;              // neighbours in memory: along k (true), or along the lines
//     Line line(std::int64_t index) const;                 // asked once a block
//     Depth depth(std::int64_t k) const;                   // asked once a slice
//     ... load or find (const Line&, const Depth&) const;  // what a loop asks for each element, or pack of them
//   };
//   MatrixSource<T, depth_contiguous>{data, line_stride, depth_stride}       // a matrix, transposed or not
//
// line() and depth() are asked only for what exists. Results go to a function object,
//
//   epilogue(std::int64_t m, std::int64_t n, int count, const Number (&sums)[4])     // sums of columns n ... n + count
//
// called for rows below `rows` only, with 1 <= count <= 4 and n a multiple of 4; store_run() writes such a run.
//
//   __global__ void __launch_bounds__(Tile::threads) kernel(..., TileGrid grid) {
//     const TileGrid::Place place = grid.place<Tile>(blockIdx.x);                 // z: what else the launch numbers
//     simt_product<Tile>(a, b, {rows, columns, first, last}, place, epilogue);
//   }
//   LAUNCH((kernel<...>), context, {.blocks = grid.blocks(), .threads = Tile::threads}, ...);
#pragma once

#include <utility>

#include "cuda/arch/pack.h"
#include "cuda/gemm/divide.h"

namespace imgrec::cuda {

/// What a product covers.
struct ProductExtent {
  std::int64_t rows, columns, first = 0, last;  // k from first to last
};

/// The tiles of a launch, all along the grid's x, which alone can be long. Blocks that follow each other share their
/// rows, so that the second reads them from the cache.
struct TileGrid {
  struct Place {
    std::int64_t row, column;  // of the tile's first result
    std::int64_t z;
  };
  FastDivisor row_tiles, column_tiles;
  std::int64_t depth;  // how many z there are

  template <class Tile>
  static TileGrid covering(std::int64_t rows, std::int64_t columns, std::int64_t depth = 1) {
    return {FastDivisor((rows + Tile::rows - 1) / Tile::rows),
            FastDivisor((columns + Tile::columns - 1) / Tile::columns), depth};
  }

  unsigned blocks() const { return static_cast<unsigned>(row_tiles.divisor * column_tiles.divisor * depth); }

  template <class Tile>
  __device__ Place place(unsigned block) const {
    const FastDivisor::Result column = column_tiles.divide(block), row = row_tiles.divide(column.quotient);
    return {row.remainder * Tile::rows, column.remainder * Tile::columns, row.quotient};
  }
};

/// A matrix in memory as a source: element (line, k) at line * line_stride + k * depth_stride.
template <class T, bool DepthContiguous>
struct MatrixSource {
  static constexpr bool depth_contiguous = DepthContiguous;
  const T* data;
  std::int64_t line_stride, depth_stride;

  __device__ const T* line(std::int64_t index) const { return data + index * line_stride; }
  __device__ std::int64_t depth(std::int64_t k) const { return k * depth_stride; }
  __device__ Compute<T> load(const T* line, std::int64_t depth) const { return widen(line[depth]); }
  __device__ const T* find(const T* line, std::int64_t depth) const { return line + depth; }
};

/// Writes a run of neighbouring results, with one access where it is whole and may be.
template <class T, class Number>
__device__ __forceinline__ void store_run(T* to, int count, const Number (&sums)[4]) {
  Pack<T, 4> pack;
  for (int i = 0; i < 4; ++i) pack.values[i] = narrow<T>(sums[i]);
  if (count == 4 && reinterpret_cast<std::uintptr_t>(to) % sizeof(pack) == 0) return store_pack(to, pack);
  for (int i = 0; i < 4; ++i)
    if (i < count) to[i] = pack.values[i];
}

}  // namespace imgrec::cuda
