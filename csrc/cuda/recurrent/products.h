// The products of the recurrent family that do not wait for each other: the input projections of all steps before the
// first one, the gradients of inputs and weights after the last. Each is one matrix product over all R = N T rows.
//
//   projections (R, G H) = x (R, I) weight_ih^T + biases        into the slots of forward.cu
//   dx (R, I)            = gradients (R, G H) weight_ih
//   dweight_ih (G H, I)  = gradients^T x                        past a sample's length x counts as zero
//   dweight_hh (G H, H)  = gradients^T h'                       h' the h of the step before
//
// `gradients` are slots (R, stride) in the storage type: rounded once, after the steps, which hand them on in the
// compute type. 16-bit types run on tensor cores (gemm/tensor_core.h) where I and H are multiples of 8 and arrays
// aligned to 16 bytes, all else the exact main loop of gemm/simt.h; these files say how they map to threads. The depth
// of the last two products, R, is cut into parts where their tiles are few (gemm/split.h).
#pragma once

#include "cuda/gemm/simt.h"
#include "cuda/gemm/split.h"
#include "cuda/gemm/tensor_core.h"
#include "cuda/recurrent/cells.h"
#include "cuda/recurrent/tiling.h"

namespace imgrec::cuda::recurrent {

template <class Tile, class A, class B, class Epilogue>
__global__ void __launch_bounds__(Tile::threads)
    product_kernel(A a, B b, ProductExtent extent, std::int64_t part_depth, TileGrid grid, Epilogue epilogue) {
  const TileGrid::Place place = grid.place<Tile>(blockIdx.x);
  const std::int64_t first = place.z * part_depth;
  const ProductExtent part{extent.rows, extent.columns, first, min(extent.last, first + part_depth)};
  const auto write = [&](std::int64_t m, std::int64_t n, int count, const auto& sums) {
    epilogue(place.z, m, n, count, sums);
  };
  if constexpr (Tile::shared_bytes > 0)
    tensor_core_product<Tile>(a, b, part, place, write);
  else
    simt_product<Tile>(a, b, part, place, write);
}

template <class Tile, class A, class B, class Epilogue>
void launch_product(const Context& context, const A& a, const B& b, const ProductExtent& extent,
                    const DepthSplit& split, const Epilogue& epilogue) {
  const TileGrid grid = TileGrid::covering<Tile>(extent.rows, extent.columns, split.parts);
  ALLOW_SHARED((product_kernel<Tile, A, B, Epilogue>), Tile::shared_bytes);
  LAUNCH((product_kernel<Tile, A, B, Epilogue>), context,
         {.blocks = grid.blocks(), .threads = Tile::threads, .shared_bytes = Tile::shared_bytes}, a, b, extent,
         split.part_depth, grid, epilogue);
}

/// a times b, in `parts` parts of the depth, each given to the epilogue by its number. in_packs: whether the operands
/// are such as tensor cores ask for.
template <class T, class A, class B, class Epilogue>
void product(const Context& context, const A& a, const B& b, const ProductExtent& extent, const DepthSplit& split,
             const Epilogue& epilogue, bool in_packs) {
  if (extent.rows == 0 || extent.columns == 0) return;
  if constexpr (on_tensor_cores<T>) {
    using Large = TensorCoreTile<T, 4>;
    constexpr unsigned enough = 128;  // for a large GPU
    const bool large = extent.rows > 64 && extent.columns > 64 &&
                       TileGrid::covering<Large>(extent.rows, extent.columns, split.parts).blocks() >= enough;
    if (in_packs && large) return launch_product<Large>(context, a, b, extent, split, epilogue);
    if (in_packs) return launch_product<TensorCoreTile<T, 2>>(context, a, b, extent, split, epilogue);
  }
  launch_product<SimtTile<Compute<T>, 4>>(context, a, b, extent, split, epilogue);
}

/// Whether rows of so many numbers are whole packs, and the arrays aligned for them.
template <class... Arrays>
bool come_in_packs(std::int64_t input, std::int64_t hidden, const Arrays&... arrays) {
  return input % 8 == 0 && hidden % 8 == 0 && aligned_for_packs(arrays.data...);
}

/// How the depth of a weight's gradient (rows, columns) is cut; tiles of 64 x 64 are counted, whatever runs then.
inline DepthSplit weight_split(std::int64_t rows, std::int64_t columns, std::int64_t depth) {
  constexpr std::int64_t side = 64;
  return DepthSplit::of(divide_up(rows, side) * divide_up(columns, side), depth);
}

/// Writes sums as slots, with the biases: both, but of gru's n, whose bias_hh the reset gate multiplies.
template <class T>
struct ProjectionEpilogue {
  Compute<T>* slots;
  std::int64_t stride, hidden_biases;  // of columns below this bias_hh is added
  const T *bias_ih, *bias_hh;          // or null

  __device__ void operator()(std::int64_t, std::int64_t m, std::int64_t n, int count,
                             const Compute<T> (&sums)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i >= count) return;
      Compute<T> sum = sums[i];
      if (bias_ih) sum += widen(bias_ih[n + i]);
      if (bias_hh && n + i < hidden_biases) sum += widen(bias_hh[n + i]);
      slots[m * stride + n + i] = sum;
    }
  }
};

/// Writes sums as they are: the result, or one part of them to scratch memory.
template <class T>
struct GradientEpilogue {
  T* to;
  Compute<T>* partial;  // (parts, size), or null where there is but one part
  std::int64_t size, columns;

  __device__ void operator()(std::int64_t part, std::int64_t m, std::int64_t n, int count,
                             const Compute<T> (&sums)[4]) const {
    if (partial)
      store_run(partial + part * size + m * columns + n, count, sums);
    else
      store_run(to + m * columns + n, count, sums);
  }
};

/// The gates' gradients by gate and unit, along the rows: columns from `skip_from` on stand one slot later.
template <class T>
struct GateGradients {
  static constexpr bool depth_contiguous = false;
  const T* data;
  std::int64_t stride, skip_from, hidden;

  __device__ const T* line(std::int64_t column) const { return data + column + (column >= skip_from ? hidden : 0); }
  __device__ std::int64_t depth(std::int64_t row) const { return row * stride; }
  __device__ Compute<T> load(const T* line, std::int64_t depth) const { return widen(line[depth]); }
  __device__ const T* find(const T* line, std::int64_t depth) const { return line + depth; }
};

/// What the gates of a row were multiplied with: x (N T, width), or h of the step before from output (N T, width) and
/// first (N, width). Zero past a sample's length: what stands there, NaN or not, has no part in the sums.
template <class T>
struct StepRows {
  static constexpr bool depth_contiguous = false;
  const T *data, *first;  // first: or null for zeros
  std::int64_t width;
  Order order;
  bool before;  // whether the row of the step before is meant

  __device__ std::int64_t line(std::int64_t column) const { return column; }
  __device__ const T* depth(std::int64_t row) const {
    const FastDivisor::Result place = order.steps.divide(row);
    const std::int64_t length = order.length(place.quotient), time = place.remainder;
    if (time >= length) return nullptr;
    if (!before) return data + row * width;
    if (time == (order.reverse ? length - 1 : 0)) return first ? first + place.quotient * width : nullptr;
    return data + (order.reverse ? row + 1 : row - 1) * width;
  }
  __device__ Compute<T> load(std::int64_t line, const T* depth) const {
    return depth ? widen(depth[line]) : Compute<T>(0);
  }
  __device__ const T* find(std::int64_t line, const T* depth) const { return depth ? depth + line : nullptr; }
};

}  // namespace imgrec::cuda::recurrent
