// The gradient of a convolution's bias: dbias[o] = sum over pixels of dy[pixel, o].
//
//   dy (P, C_out), P = N OH OW   ->   partial (parts, C_out)   ->   dbias (C_out,)
//
// A block sums one part of the pixels for 32 channels: warps read 32 neighbouring channels of a pixel, 8 pixels at a
// time, and the 8 sums are added in order through 1 KB of shared memory (2 KB for double). Bound by memory: dy is read
// once. Registers on sm_80: at most 32, no spills; measured share of the peer: not run on a GPU.
#include "cuda/conv2d/kernels.h"

namespace imgrec::cuda {
namespace {

constexpr int channels = 32, pixels = 8;

DepthSplit split_of(const Conv2dShape& shape) {
  return DepthSplit::of((shape.out_channels + channels - 1) / channels, shape.outputs());
}

template <class T>
__global__ void __launch_bounds__(channels* pixels)
    bias_gradient_kernel(Compute<T>* partial, const T* dy, std::int64_t outputs, std::int64_t out_channels,
                         std::int64_t part_depth, FastDivisor parts) {
  using Number = Compute<T>;
  SHARED(Number, sums, [pixels][channels]);
  const auto place = parts.divide(blockIdx.x);
  const std::int64_t channel = place.quotient * channels + threadIdx.x;
  const std::int64_t first = place.remainder * part_depth, last = min(first + part_depth, outputs);
  Number sum = 0;
  if (channel < out_channels)
    for (std::int64_t pixel = first + threadIdx.y; pixel < last; pixel += pixels)
      sum += widen(dy[pixel * out_channels + channel]);
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || channel >= out_channels) return;
  for (int i = 1; i < pixels; ++i) sum += sums[i][threadIdx.x];
  partial[place.remainder * out_channels + channel] = sum;
}

}  // namespace

std::int64_t bias_gradient_parts(const Conv2dShape& shape) { return split_of(shape).parts; }

void conv2d_bias_gradient(const Context& context, const Array& dbias, const Array& dy, const Conv2dShape& shape,
                          void* partial) {
  for_floating(dbias.dtype, [&](auto type) {
    using T = decltype(type);
    const DepthSplit split = split_of(shape);
    auto* const sums = static_cast<Compute<T>*>(partial);
    const std::int64_t blocks = split.parts * ((shape.out_channels + channels - 1) / channels);
    LAUNCH((bias_gradient_kernel<T>), context,
           {.blocks = static_cast<unsigned>(blocks), .threads = dim3(channels, pixels)}, sums, dy.as<const T>(),
           shape.outputs(), shape.out_channels, split.part_depth, FastDivisor(split.parts));
    sum_parts(context, dbias.as<T>(), sums, shape.out_channels, split.parts);
  });
}

}  // namespace imgrec::cuda
