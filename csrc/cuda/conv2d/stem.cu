// The first convolution of a network, whose images have one to four channels: forward.
//
//   y[n, i, j, o] = act(bias[o] + sum over kh, kw, c of
//                       x[n, i s_h - p_h + kh d_h, j s_w - p_w + kw d_w, c] weight[o, kh, kw, c])
//   x (N, H, W, C), C <= 4   weight (C_out, KH, KW, C)   y (N, OH, OW, C_out)
//
// So few channels fill no pack of 16 bytes, and taps are gathered one by one: that costs more than the arithmetic. Here
// a block reads the patch of x under 8 x 16 pixels of y once into shared memory, zeros included, and then computes all
// channels of y from it, 64 at a time, with weights (taps, 64) beside it. A thread has 4 neighbouring pixels x 8
// channels: for each tap 4 broadcast reads of x and two packs of weights serve 32 multiply-adds. Everything is computed
// in float (or double).
//
//   shared memory, 7 x 7 stride 2, C = 3, float: 21 x 37 x 3 patch and 147 x 64 weights, 46,956 bytes
//   registers on sm_80 (sm_90a), no spills: 103 (103), 156 (160) for double
//   measured share of the peer: not run on a GPU
#include "cuda/conv2d/epilogue.h"
#include "cuda/conv2d/kernels.h"

namespace imgrec::cuda {
namespace {

constexpr int tile_rows = 8, tile_columns = 16, tile_channels = 64, block_threads = 256, most_channels = 4;

struct StemAxis {
  int source, outputs, step, origin, dilation, taps, patch;  // patch: how much of the source a tile reads
  FastDivisor tiles;
};

StemAxis axis_of(const Conv2dAxis& axis, std::int64_t tile) {
  const std::int64_t patch = (tile - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
  return {static_cast<int>(axis.input),    static_cast<int>(axis.output()),
          static_cast<int>(axis.stride),   static_cast<int>(-axis.padding_before),
          static_cast<int>(axis.dilation), static_cast<int>(axis.kernel),
          static_cast<int>(patch),         FastDivisor((axis.output() + tile - 1) / tile)};
}

template <class T>
__device__ void load_patch(Compute<T>* patch, const T* image, const StemAxis& height, const StemAxis& width,
                           int channels, int top, int left) {
  const int line = width.patch * channels;
  for (int row = threadIdx.x / 32; row < height.patch; row += block_threads / 32) {
    const int y = top + row;
    for (int i = threadIdx.x % 32; i < line; i += 32) {
      const int x = left + i / channels;
      const bool inside = y >= 0 && y < height.source && x >= 0 && x < width.source;
      patch[row * line + i] =
          inside ? widen(image[(static_cast<std::int64_t>(y) * width.source + left) * channels + i]) : 0;
    }
  }
}

template <class T>
__device__ void load_weights(Compute<T>* to, const T* weight, int taps, int first, std::int64_t out_channels) {
  for (int i = threadIdx.x; i < taps * tile_channels; i += block_threads) {
    const std::int64_t channel = first + i % tile_channels;
    to[i] = channel < out_channels ? widen(weight[channel * taps + i / tile_channels]) : 0;
  }
}

/// sums of 4 pixels x 8 channels: 4 from channel 4 lane on, and 4 more 32 further.
template <class Number>
__device__ __forceinline__ void multiply_patch(Number (&sums)[4][8], const Number* pixel, const Number* weights,
                                               const StemAxis& height, const StemAxis& width, int channels) {
  for (int kh = 0; kh < height.taps; ++kh)
    for (int kw = 0; kw < width.taps; ++kw)
      for (int c = 0; c < channels; ++c, weights += tile_channels) {
        const auto low = load_pack<Number, 4>(weights), high = load_pack<Number, 4>(weights + 32);
        const Number* const from = pixel + (kh * height.dilation * width.patch + kw * width.dilation) * channels + c;
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const Number value = from[p * width.step * channels];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sums[p][i] += value * low.values[i];
            sums[p][i + 4] += value * high.values[i];
          }
        }
      }
}

template <class T>
__global__ void __launch_bounds__(block_threads, sizeof(T) == 8 ? 1 : 2)
    stem_kernel(ForwardEpilogue<T> output, const T* x, const T* weight, StemAxis height, StemAxis width, int channels) {
  using Number = Compute<T>;
  DYN_SHARED(Number, weights);
  const int taps = height.taps * width.taps * channels;
  Number* const patch = weights + taps * tile_channels;
  const auto tile_column = width.tiles.divide(blockIdx.x), tile_row = height.tiles.divide(tile_column.quotient);
  const int first_row = static_cast<int>(tile_row.remainder) * tile_rows;
  const int first_column = static_cast<int>(tile_column.remainder) * tile_columns;
  const std::int64_t image = tile_row.quotient;
  load_patch(patch, x + image * height.source * width.source * channels, height, width, channels,
             first_row * height.step + height.origin, first_column * width.step + width.origin);

  const int lane = threadIdx.x % 8, group = threadIdx.x / 8;  // of channels, of pixels
  const int row = group / 4, column = group % 4 * 4;
  const Number* const pixel = patch + (row * height.step * width.patch + column * width.step) * channels;
  for (int first = 0; first < output.channels; first += tile_channels) {
    __syncthreads();
    load_weights(weights, weight, taps, first, output.channels);
    __syncthreads();
    Number sums[4][8] = {};
    multiply_patch(sums, pixel, weights + lane * 4, height, width, channels);
#pragma unroll
    for (int p = 0; p < 4; ++p)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = first_row + row, j = first_column + column + p, channel = first + half * 32 + lane * 4;
        const Number run[4] = {sums[p][half * 4], sums[p][half * 4 + 1], sums[p][half * 4 + 2], sums[p][half * 4 + 3]};
        const auto count = static_cast<int>(min(output.channels - channel, std::int64_t{4}));
        if (i < height.outputs && j < width.outputs && count > 0)
          output((image * height.outputs + i) * width.outputs + j, channel, count, run);
      }
  }
}

std::int64_t shared_bytes(const Conv2dShape& shape, DType dtype) {
  const auto patch = [](const Conv2dAxis& axis, std::int64_t tile) {
    return (tile - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
  };
  const std::int64_t pixels = patch(shape.height, tile_rows) * patch(shape.width, tile_columns);
  return (pixels * shape.in_channels + shape.taps() * tile_channels) * (dtype == DType::float64 ? 8 : 4);
}

}  // namespace

bool stem_serves(const Context& context, const Conv2dShape& shape, DType dtype) {
  return shape.groups == 1 && shape.in_channels > 0 && shape.in_channels <= most_channels && is_moderate(shape) &&
         shared_bytes(shape, dtype) <= context.max_shared_bytes;
}

void conv2d_stem(const Context& context, const Conv2dForward& arrays, const Conv2dShape& shape) {
  for_floating(arrays.y.dtype, [&](auto type) {
    using T = decltype(type);
    const StemAxis height = axis_of(shape.height, tile_rows), width = axis_of(shape.width, tile_columns);
    const std::int64_t shared = shared_bytes(shape, arrays.y.dtype);
    const std::int64_t blocks = shape.batch * height.tiles.divisor * width.tiles.divisor;
    ALLOW_SHARED((stem_kernel<T>), static_cast<int>(context.max_shared_bytes));
    LAUNCH((stem_kernel<T>), context,
           {.blocks = static_cast<unsigned>(blocks), .threads = block_threads, .shared_bytes = shared},
           forward_epilogue<T>(arrays, shape), arrays.x.as<const T>(), arrays.weight.as<const T>(), height, width,
           static_cast<int>(shape.in_channels));
  });
}

}  // namespace imgrec::cuda
