// How the product of a state with the recurrent weights is cut into blocks, and what of it lies in shared memory.
//
// The product is sums (N, columns) = state (N, depth) times weights^T, for all hidden units, of which each has
// `unit_columns` columns: its gates forwards (depth H), one backwards (depth G H). A block computes the columns of
// `units` hidden units for `block_rows` samples, one tile of `rows` samples after the other. In its shared memory stand
//
//   weights   (columns, width)         those of its units, for all steps, where they fit; else two slices (.., slice)
//   state     (rows, slice)            one slice where the whole width fits, else two in turns
//   sums      (parts, rows, columns)   parts: of the depth, each summed by other warps
//   carry     (block_rows, units)      what its units keep between steps, where it fits
//
// Rows of weights and state are longer than they need to be, so that 8 threads that read 16 bytes of 8 rows each meet
// 8 different groups of 4 banks.
#pragma once

#include <algorithm>

#include "cuda/arch/numbers.h"

namespace imgrec::cuda::recurrent {

constexpr int block_threads = 256;

/// 16-bit weights are multiplied on tensor cores.
template <class T>
constexpr bool on_tensor_cores = sizeof(T) == 2;

constexpr int depth_multiple = 16, column_multiple = 8;

template <class I>
constexpr I divide_up(I value, I by) {
  return (value + by - 1) / by;
}

template <class I>
constexpr I round_up_to(I value, I multiple) {
  return divide_up(value, multiple) * multiple;
}

/// Elements from one row of `depth`, a multiple of 16, to the next in shared memory.
template <class T>
__host__ __device__ constexpr int row_stride(int depth) {
  return on_tensor_cores<T> ? depth | 16 : depth + 16 / static_cast<int>(sizeof(T));
}

struct ProductShape {
  std::int64_t batch, hidden;
  int unit_columns, depth;
};

/// See above.
struct Tiling {
  int groups = 0, units = 0;   // groups of units; each has its blocks
  int columns = 0, width = 0;  // rounded up; what is added is zero
  int rows = 0, block_rows = 0, row_blocks = 0;
  int slice = 0, parts = 1;
  bool resident = false, carry_on_chip = false;

  int slices() const { return divide_up(width, slice); }
  int blocks() const { return groups * row_blocks; }

  template <class T>
  std::int64_t weight_elements() const {
    return std::int64_t{columns} * (resident ? row_stride<T>(width) : 2 * row_stride<T>(slice));
  }
  template <class T>
  std::int64_t state_elements() const {
    return std::int64_t{rows} * row_stride<T>(slice) * (resident && slices() == 1 ? 1 : 2);
  }
  std::int64_t sum_elements() const { return std::int64_t{parts} * rows * columns; }
  __host__ __device__ std::int64_t carry_elements() const { return std::int64_t{block_rows} * units; }

  template <class T>
  std::int64_t shared_bytes() const {
    const std::int64_t numbers = state_elements<T>() + sum_elements() + (carry_on_chip ? carry_elements() : 0);
    return weight_elements<T>() * static_cast<std::int64_t>(sizeof(T)) +
           numbers * static_cast<std::int64_t>(sizeof(Compute<T>));
  }
};

/// What a block works on.
struct Share {
  std::int64_t first_sample, first_unit;
  int samples, units;

  __device__ Share(const Tiling& tiling, std::int64_t batch, std::int64_t hidden)
      : first_sample(static_cast<std::int64_t>(blockIdx.x / tiling.groups) * tiling.block_rows),
        first_unit(static_cast<std::int64_t>(blockIdx.x % tiling.groups) * tiling.units),
        samples(at_most(tiling.block_rows, batch - first_sample)),
        units(at_most(tiling.units, hidden - first_unit)) {}

 private:
  static __device__ int at_most(int most, std::int64_t left) { return left < most ? static_cast<int>(left) : most; }
};

/// What one thread (or, on tensor cores, one warp) sums at a time, and how many of those there are at once.
template <class T>
struct Squares {
  static constexpr int rows = on_tensor_cores<T> ? 16 : 4, columns = on_tensor_cores<T> ? 32 : 4;
  static constexpr int workers = on_tensor_cores<T> ? block_threads / 32 : block_threads;

  static int in(int tile_rows, int tile_columns) { return tile_rows / rows * divide_up(tile_columns, columns); }
};

/// The largest power of two of copies of `count` workers that there are.
template <class T>
__host__ __device__ constexpr int depth_parts(int count, int most) {
  int parts = 1;
  while (parts < most && parts * 2 * count <= Squares<T>::workers) parts *= 2;
  return parts;
}

/// The largest tile and slice that leave a block within `limit` bytes; false where there are none.
template <class T>
bool fit(Tiling& tiling, std::int64_t limit) {
  using Square = Squares<T>;
  int most = Square::rows;
  while (most < tiling.block_rows && most < 64 && Square::in(2 * most, tiling.columns) <= Square::workers) most *= 2;
  if (Square::in(most, tiling.columns) > Square::workers) return false;
  for (const bool on_chip : {true, false})
    for (tiling.rows = most; tiling.rows >= Square::rows; tiling.rows /= 2) {
      tiling.carry_on_chip = on_chip && tiling.resident;
      tiling.parts = on_tensor_cores<T> ? depth_parts<T>(Square::in(tiling.rows, tiling.columns), Square::workers) : 1;
      tiling.slice = tiling.resident ? tiling.width : std::min(tiling.width, 128);
      while (tiling.shared_bytes<T>() > limit && tiling.slice > 32)
        tiling.slice = round_up_to(tiling.slice / 2, depth_multiple);
      if (tiling.shared_bytes<T>() <= limit) return true;
    }
  return false;
}

/// A tiling with `units` hidden units a block, of which `row_blocks` share the samples.
inline Tiling tiling_with(const ProductShape& shape, std::int64_t units, std::int64_t row_blocks) {
  Tiling tiling;
  tiling.units = static_cast<int>(units);
  tiling.groups = static_cast<int>(divide_up(shape.hidden, units));
  tiling.columns = round_up_to(tiling.units * shape.unit_columns, column_multiple);
  tiling.width = round_up_to(shape.depth, depth_multiple);
  tiling.block_rows = static_cast<int>(divide_up(shape.batch, row_blocks));
  tiling.row_blocks = static_cast<int>(divide_up<std::int64_t>(shape.batch, tiling.block_rows));
  return tiling;
}

/// A rough model of a step in cycles: what starts it, a grid barrier or a launch; the products, slice by slice, of
/// which none is faster than the L2 cache answers; what a block reads from the cache, and what the cache gives to all.
template <class T>
double step_cycles(const Tiling& tiling, int sm_count) {
  constexpr double sums_per_cycle = on_tensor_cores<T> ? 256 : sizeof(T) == 8 ? 32 : 64, slice_cycles = 600;
  constexpr double block_bytes_per_cycle = 64, cache_bytes_per_cycle = 3000, barrier_cycles = 2500,
                   launch_cycles = 5000;
  const double tiles = divide_up(tiling.block_rows, tiling.rows), waves = divide_up(tiling.blocks(), sm_count);
  const double state_bytes = double{sizeof(Compute<T>)} * tiling.block_rows * tiling.width;
  const double bytes = state_bytes + (tiling.resident ? 0 : double{sizeof(T)} * tiles * tiling.columns * tiling.width);
  const double slice_sums = double(tiling.rows) * tiling.columns * tiling.slice;
  const double product = tiling.slices() * std::max(slice_sums / sums_per_cycle, slice_cycles);
  const double start = !tiling.resident ? launch_cycles : tiling.groups > 1 ? barrier_cycles : 0;
  return start + waves * (tiles * product + bytes / block_bytes_per_cycle) +
         bytes * tiling.blocks() / cache_bytes_per_cycle;
}

/// The fastest of the tilings that it is given.
template <class T>
class Choice {
 public:
  explicit Choice(const Context& context) : context_(context) {}

  void consider(Tiling tiling) {
    if (!fit<T>(tiling, context_.max_shared_bytes)) return;
    const double cycles = step_cycles<T>(tiling, context_.sm_count);
    if (best_.groups != 0 && cycles >= least_) return;
    best_ = tiling;
    least_ = cycles;
  }

  const Tiling& best() const { return best_; }

 private:
  const Context& context_;
  Tiling best_;
  double least_ = 0;
};

/// Weights in shared memory, and no more blocks than there are multiprocessors: they wait for each other.
template <class T>
void consider_persistent(Choice<T>& choice, int sm_count, const ProductShape& shape) {
  const std::int64_t most_row_blocks = divide_up<std::int64_t>(shape.batch, Squares<T>::rows);
  for (std::int64_t wanted = 1; wanted <= std::min<std::int64_t>(sm_count, shape.hidden); ++wanted) {
    const std::int64_t units = divide_up(shape.hidden, wanted), groups = divide_up(shape.hidden, units);
    if (groups != wanted) continue;
    Tiling tiling = tiling_with(shape, units, std::min(sm_count / groups, most_row_blocks));
    tiling.resident = true;
    choice.consider(tiling);
  }
}

/// Weights and state both stream through shared memory; a block has one tile.
template <class T>
void consider_stepwise(Choice<T>& choice, const ProductShape& shape) {
  const std::int64_t most_units = std::min<std::int64_t>(shape.hidden, 64 / shape.unit_columns);
  for (std::int64_t units = most_units; units > 0; units /= 2)
    for (std::int64_t rows = 64; rows >= Squares<T>::rows; rows /= 2)
      choice.consider(tiling_with(shape, units, divide_up(shape.batch, rows)));
}

/// The tiling of a step's product; for an empty batch that of one sample.
template <class T>
Tiling tiling_of(const Context& context, ProductShape shape) {
  shape.batch = std::max<std::int64_t>(shape.batch, 1);
  Choice<T> choice(context);
  consider_persistent(choice, context.sm_count, shape);
  consider_stepwise(choice, shape);
  return choice.best();
}

}  // namespace imgrec::cuda::recurrent
