// The products of the recurrent family that do not wait for each other: the input projections of all steps before the
// first one, the gradients of inputs and weights after the last. Each is one matrix product over all R = N T rows.
//
//   projections (R, G H) = x (R, I) weight_ih^T + biases        into the slots of forward.cu
//   dx (R, I)            = gradients (R, G H) weight_ih
//   dweight_ih (G H, I)  = gradients^T x                        past a sample's length x counts as zero
//   dweight_hh (G H, H)  = gradients^T h'                       h' the h of the step before
//
// `gradients` are slots (R, stride) in the compute type. All run the exact main loop of gemm/simt.h, which says how it
// maps to threads; the depth of the last two, R, is cut into parts where their tiles are few (gemm/split.h).
#pragma once

#include "cuda/gemm/simt.h"
#include "cuda/gemm/split.h"
#include "cuda/recurrent/cells.h"

namespace imgrec::cuda::recurrent {

template <class T>
using ProductTile = SimtTile<Compute<T>, 4>;

template <class Tile, class A, class B, class Epilogue>
__global__ void __launch_bounds__(Tile::threads)
    product_kernel(A a, B b, ProductExtent extent, std::int64_t part_depth, TileGrid grid, Epilogue epilogue) {
  const TileGrid::Place place = grid.place<Tile>(blockIdx.x);
  const std::int64_t first = place.z * part_depth;
  const ProductExtent part{extent.rows, extent.columns, first, min(extent.last, first + part_depth)};
  simt_product<Tile>(a, b, part, place, [&](std::int64_t m, std::int64_t n, int count, const auto& sums) {
    epilogue(place.z, m, n, count, sums);
  });
}

/// a times b, in `parts` parts of the depth, each given to the epilogue by its number.
template <class Tile, class A, class B, class Epilogue>
void product(const Context& context, const A& a, const B& b, const ProductExtent& extent, const DepthSplit& split,
             const Epilogue& epilogue) {
  if (extent.rows == 0 || extent.columns == 0) return;
  const TileGrid grid = TileGrid::covering<Tile>(extent.rows, extent.columns, split.parts);
  LAUNCH((product_kernel<Tile, A, B, Epilogue>), context, {.blocks = grid.blocks(), .threads = Tile::threads}, a, b,
         extent, split.part_depth, grid, epilogue);
}

/// How the depth of a weight's gradient (rows, columns) is cut.
template <class T>
DepthSplit weight_split(std::int64_t rows, std::int64_t columns, std::int64_t depth) {
  using Tile = ProductTile<T>;
  if (columns == 0) return {1, depth};
  return DepthSplit::of(TileGrid::covering<Tile>(rows, columns).blocks(), depth);
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
template <class Number>
struct GateGradients {
  static constexpr bool depth_contiguous = false;
  const Number* slots;
  std::int64_t stride, skip_from, hidden;

  __device__ const Number* line(std::int64_t column) const {
    return slots + column + (column >= skip_from ? hidden : 0);
  }
  __device__ std::int64_t depth(std::int64_t row) const { return row * stride; }
  __device__ Number load(const Number* line, std::int64_t depth) const { return line[depth]; }
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
};

}  // namespace imgrec::cuda::recurrent
