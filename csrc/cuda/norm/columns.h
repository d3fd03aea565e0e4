// What the kernels that work along the columns of a matrix share: how it is cut into tiles, and sums over its rows.
//
// A block of 256 threads works on a tile: `across` threads hold neighbouring runs of columns, `down` of them stand
// below each other and share the rows of a chunk. Cuts depend on shape and dtype alone, and so do all sums.
#pragma once

#include "cuda/arch/pack.h"

namespace imgrec::cuda {

constexpr int tile_threads = 256;

struct ColumnTiling {
  std::int64_t rows, columns;
  int run;           // neighbouring columns of a thread: a whole pack where rows can be cut into packs
  int across, down;  // powers of two whose product is tile_threads
  std::int64_t chunk_rows, chunks;

  __host__ __device__ std::int64_t tile_columns() const { return static_cast<std::int64_t>(across) * run; }
  __host__ __device__ std::int64_t begin(std::int64_t chunk) const { return chunk * chunk_rows; }
  __host__ __device__ std::int64_t size(std::int64_t chunk) const {
    return rows - begin(chunk) < chunk_rows ? rows - begin(chunk) : chunk_rows;
  }

  /// One block for each tile of columns along x and each chunk of rows along y.
  LaunchConfig config() const {
    return {.blocks = dim3(static_cast<unsigned>((columns + tile_columns() - 1) / tile_columns()),
                           static_cast<unsigned>(chunks)),
            .threads = tile_threads};
  }
};

/// About 512 blocks, more than any GPU has multiprocessors, with 8 rows or more for each thread.
inline ColumnTiling column_tiling(std::int64_t rows, std::int64_t columns, DType dtype) {
  constexpr std::int64_t blocks = 512, least_rows = 8;
  ColumnTiling tiling{.rows = rows, .columns = columns, .run = 1, .across = 1, .down = 1, .chunk_rows = 1, .chunks = 0};
  const int width = 16 / static_cast<int>(size_of(dtype));
  if (columns % width == 0) tiling.run = width;
  while (tiling.across < 32 && tiling.tile_columns() < columns) tiling.across *= 2;
  tiling.down = tile_threads / tiling.across;
  const std::int64_t tiles = (columns + tiling.tile_columns() - 1) / tiling.tile_columns();
  const std::int64_t wanted = std::clamp<std::int64_t>(blocks / std::max<std::int64_t>(tiles, 1), 1, blocks);
  tiling.chunk_rows = std::max((rows + wanted - 1) / wanted, tiling.down * least_rows);
  tiling.chunks = (rows + tiling.chunk_rows - 1) / tiling.chunk_rows;
  return tiling;
}

/// A thread's place in its tile.
struct TilePlace {
  int x, y;               // along columns, along rows
  std::int64_t column;    // its first
  int count;              // of columns; 0 or less where it has none
  std::int64_t row, end;  // its rows are row, row + down, ... < end

  __device__ __forceinline__ explicit TilePlace(const ColumnTiling& tiling)
      : x(static_cast<int>(threadIdx.x) % tiling.across),
        y(static_cast<int>(threadIdx.x) / tiling.across),
        column(blockIdx.x * tiling.tile_columns() + x * tiling.run),
        count(static_cast<int>(min(tiling.columns - column, static_cast<std::int64_t>(tiling.run)))),
        row(tiling.begin(blockIdx.y) + y),
        end(tiling.begin(blockIdx.y) + tiling.size(blockIdx.y)) {}
};

/// What a thread holds for each of its columns.
template <class T, int width, class V = Compute<T>>
__device__ __forceinline__ Pack<V, width> load_parameters(const V* from, const TilePlace& place, V otherwise) {
  Pack<V, width> values;
#pragma unroll
  for (int k = 0; k < width; ++k) values.values[k] = from && k < place.count ? from[place.column + k] : otherwise;
  return values;
}

/// Folds what the tile's threads hold for each column into the upper row of threads, halving the number of rows of
/// threads with each step: combine(upper, lower) is called with the numbers of two threads.
template <class Combine>
__device__ __forceinline__ void fold_tile(const ColumnTiling& tiling, const TilePlace& place, Combine&& combine) {
  for (int half = tiling.down / 2; half > 0; half /= 2) {
    __syncthreads();
    if (place.y < half) combine(static_cast<int>(threadIdx.x), static_cast<int>(threadIdx.x) + half * tiling.across);
  }
}

// Kernels that join chunks: a warp reads 32 neighbouring columns of every eighth chunk.
constexpr int join_columns = 32, join_slices = tile_threads / join_columns;

struct JoinPlace {
  int x, slice;
  std::int64_t column;
};

__device__ __forceinline__ JoinPlace join_place() {
  const int x = static_cast<int>(threadIdx.x) % join_columns, slice = static_cast<int>(threadIdx.x) / join_columns;
  return {x, slice, static_cast<std::int64_t>(blockIdx.x) * join_columns + x};
}

inline LaunchConfig join_config(const ColumnTiling& tiling) {
  return {.blocks = static_cast<unsigned>((tiling.columns + join_columns - 1) / join_columns), .threads = tile_threads};
}

}  // namespace imgrec::cuda
