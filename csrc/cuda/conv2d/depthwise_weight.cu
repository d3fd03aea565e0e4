// Depthwise convolution: the gradient of the weights.
//
//   dweight[o, tap] = sum over pixels p of dy[p, o] x[p at tap, o / multiplier]
//   x (N, H, W, C)   dy (N, OH, OW, C multiplier)   dweight (C multiplier, KH, KW, 1)
//
// A block sums one part of the pixels for 32 channels and up to 9 taps: warps read 32 neighbouring channels of a pixel,
// 8 pixels at a time, and a thread keeps a sum for each tap, so dy is read once for 9 taps. The 8 sums are added in
// order through 9 KB of shared memory (18 KB for double); parts by sum_parts. Bound by the caches, from which x comes 9
// times. Registers on sm_80: at most 74, no spills; measured share of the peer: not run on a GPU.
#include "cuda/conv2d/kernels.h"

namespace imgrec::cuda {
namespace {

constexpr int channels = 32, pixels = 8, block_taps = 9;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

DepthSplit split_of(const Conv2dShape& shape) {
  return DepthSplit::of(divide_up(shape.out_channels, channels) * divide_up(shape.taps(), block_taps), shape.outputs());
}

template <class T>
__global__ void __launch_bounds__(channels* pixels)
    depthwise_weight_kernel(Compute<T>* partial, const T* x, const T* dy, Patches patches, std::int64_t outputs,
                            std::int64_t taps, std::int64_t out_channels, FastDivisor multiplier,
                            std::int64_t part_depth, FastDivisor tap_tiles, FastDivisor parts) {
  using Number = Compute<T>;
  SHARED(Number, all_sums, [pixels][block_taps][channels]);
  const auto part = parts.divide(blockIdx.x), tap_tile = tap_tiles.divide(part.quotient);
  const std::int64_t first_tap = tap_tile.remainder * block_taps;
  const std::int64_t channel = tap_tile.quotient * channels + threadIdx.x;
  const std::int64_t first = part.remainder * part_depth, last = min(first + part_depth, outputs);

  Number sums[block_taps] = {};
  const T* const image = x + multiplier.divide(channel).quotient;
  for (std::int64_t pixel = first + threadIdx.y; pixel < last && channel < out_channels; pixel += pixels) {
    const Patches::Place output = patches.output(pixel);
    const Number gradient = widen(dy[pixel * out_channels + channel]);
#pragma unroll
    for (int t = 0; t < block_taps; ++t) {
      const T* from = first_tap + t < taps ? patches.find(image, output, patches.tap(first_tap + t)) : nullptr;
      if (from) sums[t] += gradient * widen(*from);
    }
  }
#pragma unroll
  for (int t = 0; t < block_taps; ++t) all_sums[threadIdx.y][t][threadIdx.x] = sums[t];
  __syncthreads();
  for (int t = threadIdx.y; t < block_taps; t += pixels) {
    if (first_tap + t >= taps || channel >= out_channels) continue;
    Number sum = all_sums[0][t][threadIdx.x];
    for (int i = 1; i < pixels; ++i) sum += all_sums[i][t][threadIdx.x];
    partial[(part.remainder * out_channels + channel) * taps + first_tap + t] = sum;
  }
}

}  // namespace

std::int64_t depthwise_weight_parts(const Conv2dShape& shape) { return split_of(shape).parts; }

void conv2d_depthwise(const Context& context, const Conv2dBackwardWeight& arrays, const Conv2dShape& shape) {
  for_floating(arrays.dweight.dtype, [&](auto type) {
    using T = decltype(type);
    const DepthSplit split = split_of(shape);
    const FastDivisor tap_tiles(divide_up(shape.taps(), block_taps));
    auto* const partial = static_cast<Compute<T>*>(arrays.partial);
    const std::int64_t blocks = split.parts * tap_tiles.divisor * divide_up(shape.out_channels, channels);
    LAUNCH((depthwise_weight_kernel<T>), context,
           {.blocks = static_cast<unsigned>(blocks), .threads = dim3(channels, pixels)}, partial,
           arrays.x.as<const T>(), arrays.dy.as<const T>(), input_patches(shape), shape.outputs(), shape.taps(),
           shape.out_channels, FastDivisor(shape.group_out()), split.part_depth, tap_tiles, FastDivisor(split.parts));
    sum_parts(context, arrays.dweight.as<T>(), partial, arrays.dweight.size(), split.parts);
  });
}

}  // namespace imgrec::cuda
