// The three products of a convolution, for tiles of either kind: their kernels and how these are launched.
//
//   x (N, H, W, C)   weight (C_out, KH, KW, C / groups)   y (N, OH, OW, C_out)   per group, of P = N OH OW pixels:
//
//   forward           (P, taps)     patches of x    times (taps, C_out)  weight, transposed
//   backward_input    (P', taps')   patches of dy   times (taps', C)     weight, for each phase (phases.h)
//   backward_weight   (C_out, P)    dy, transposed  times (P, taps)      patches of x, P in parts (split.h)
//
// taps counts tap rows x tap columns x channels. No patch is copied: sources find elements where they lie (patches.h).
#pragma once

#include <type_traits>

#include "cuda/conv2d/epilogue.h"
#include "cuda/conv2d/kernels.h"
#include "cuda/conv2d/phases.h"
#include "cuda/gemm/simt.h"
#include "cuda/gemm/tensor_core.h"

namespace imgrec::cuda {

template <class Tile, class A, class B, class Epilogue>
__device__ __forceinline__ void multiply(const A& a, const B& b, const ProductExtent& extent,
                                         const TileGrid::Place& place, const Epilogue& epilogue) {
  if constexpr (Tile::shared_bytes > 0)
    tensor_core_product<Tile>(a, b, extent, place, epilogue);
  else
    simt_product<Tile>(a, b, extent, place, epilogue);
}

template <class Tile, class T>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks_at_once)
    forward_kernel(ForwardEpilogue<T> output, const T* x, const T* weight, Patches patches, std::int64_t outputs,
                   std::int64_t taps, std::int64_t group_out, TileGrid grid) {
  const TileGrid::Place place = grid.place<Tile>(blockIdx.x);
  const std::int64_t first_channel = place.z * group_out;
  const PatchRows<T> rows{x + place.z * patches.group_channels.divisor, patches};
  const MatrixSource<T, true> columns{weight + first_channel * taps, taps, 1};
  multiply<Tile>(rows, columns, {outputs, group_out, 0, taps}, place,
                 [&](std::int64_t m, std::int64_t n, int count, const Compute<T>(&sums)[4]) {
                   output(m, first_channel + n, count, sums);
                 });
}

/// The weights that a phase of backward_input meets: lines are input channels, the depth is (tap row, tap column, o).
template <class T>
struct PhaseWeights {
  static constexpr bool depth_contiguous = false;
  const T* data;
  const PhasedInput& all;
  const PhaseProduct& phase;

  __device__ std::int64_t line(std::int64_t index) const { return index; }
  __device__ std::int64_t depth(std::int64_t k) const { return phase.weights(all, k); }
  __device__ Compute<T> load(std::int64_t channel, std::int64_t offset) const { return widen(data[offset + channel]); }
  __device__ const T* find(std::int64_t channel, std::int64_t offset) const { return data + offset + channel; }
};

template <class Tile, class T>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks_at_once)
    backward_input_kernel(T* dx, const T* dy, const T* weight, PhasedInput all, TileGrid grid) {
  const TileGrid::Place place = grid.place<Tile>(blockIdx.x);
  SHARED(PhaseProduct, phases, [1]);  // the block's, where it takes no registers
  const PhaseProduct& phase = phases[0];
  if (threadIdx.x == 0) {
    const PhaseProduct mine = PhaseProduct::of(all, place.z);
    phases[0] = mine;  // in two steps: checkers do not see what a function returns into memory
  }
  __syncthreads();
  if (place.row >= phase.inputs) return;  // smaller than the largest phase
  const PatchRows<T> rows{dy + phase.group * all.group_out.divisor, phase.patches};
  const PhaseWeights<T> columns{weight, all, phase};
  multiply<Tile>(rows, columns, {phase.inputs, all.group_in, 0, phase.depth}, place,
                 [&](std::int64_t m, std::int64_t n, int count, const Compute<T>(&sums)[4]) {
                   const std::int64_t channel = phase.group * all.group_in + n;
                   store_run(dx + phase.pixel(all, m) * all.in_channels + channel, count, sums);
                 });
}

/// partial is null where there is one part.
template <class Tile, class T>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks_at_once)
    backward_weight_kernel(T* dweight, Compute<T>* partial, const T* x, const T* dy, Patches patches,
                           std::int64_t outputs, std::int64_t taps, std::int64_t group_out, FastDivisor groups,
                           std::int64_t part_depth, TileGrid grid) {
  const TileGrid::Place place = grid.place<Tile>(blockIdx.x);
  const auto z = groups.divide(place.z);  // (part, group)
  const std::int64_t first_filter = z.remainder * group_out, out_channels = groups.divisor * group_out;
  const std::int64_t first = z.quotient * part_depth, last = min(first + part_depth, outputs);
  const MatrixSource<T, false> rows{dy + first_filter, 1, out_channels};
  const PatchColumns<T> columns{x + z.remainder * patches.group_channels.divisor, patches};
  multiply<Tile>(rows, columns, {group_out, taps, first, last}, place,
                 [&](std::int64_t m, std::int64_t n, int count, const Compute<T>(&sums)[4]) {
                   const std::int64_t to = (first_filter + m) * taps + n;
                   if (partial)
                     store_run(partial + z.quotient * out_channels * taps + to, count, sums);
                   else
                     store_run(dweight + to, count, sums);
                 });
}

template <class Tile>
LaunchConfig config_of(const TileGrid& grid) {
  return {.blocks = grid.blocks(), .threads = Tile::threads, .shared_bytes = Tile::shared_bytes};
}

template <class Tile, class T>
void launch_product(const Context& context, const Conv2dForward& arrays, const Conv2dShape& shape) {
  const TileGrid grid = TileGrid::covering<Tile>(shape.outputs(), shape.group_out(), shape.groups);
  ALLOW_SHARED((forward_kernel<Tile, T>), Tile::shared_bytes);
  LAUNCH((forward_kernel<Tile, T>), context, config_of<Tile>(grid), forward_epilogue<T>(arrays, shape),
         arrays.x.as<const T>(), arrays.weight.as<const T>(), input_patches(shape), shape.outputs(), shape.taps(),
         shape.group_out(), grid);
}

template <class Tile, class T>
void launch_product(const Context& context, const Conv2dBackwardInput& arrays, const Conv2dShape& shape) {
  const PhasedInput all(shape);
  const TileGrid grid = all.grid<Tile>(shape);
  ALLOW_SHARED((backward_input_kernel<Tile, T>), Tile::shared_bytes);
  LAUNCH((backward_input_kernel<Tile, T>), context, config_of<Tile>(grid), arrays.dx.as<T>(), arrays.dy.as<const T>(),
         arrays.weight.as<const T>(), all, grid);
}

template <class Tile, class T>
void launch_product(const Context& context, const Conv2dBackwardWeight& arrays, const Conv2dShape& shape) {
  const DepthSplit split = weight_split(shape, Tile::rows);
  const TileGrid grid = TileGrid::covering<Tile>(shape.group_out(), shape.taps(), shape.groups * split.parts);
  auto* const partial = split.parts > 1 ? static_cast<Compute<T>*>(arrays.partial) : nullptr;
  ALLOW_SHARED((backward_weight_kernel<Tile, T>), Tile::shared_bytes);
  LAUNCH((backward_weight_kernel<Tile, T>), context, config_of<Tile>(grid), arrays.dweight.as<T>(), partial,
         arrays.x.as<const T>(), arrays.dy.as<const T>(), input_patches(shape), shape.outputs(), shape.taps(),
         shape.group_out(), FastDivisor(shape.groups), split.part_depth, grid);
  if (partial) sum_parts(context, arrays.dweight.as<T>(), partial, arrays.dweight.size(), split.parts);
}

}  // namespace imgrec::cuda
