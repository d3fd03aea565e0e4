// Depthwise convolution, where each group has one input channel: forward and backward_input.
//
//   forward          y[p, o]  = act(bias[o] + sum over taps of x[p at tap, o / multiplier] weight[o, tap])
//   backward_input   dx[p, c] = sum over the multiplier's outputs o of c, and taps, of dy[p at tap, o] weight[o, tap]
//
//   x (N, H, W, C)   weight (C multiplier, KH, KW, 1)   y (N, OH, OW, C multiplier)
//
// One kernel serves both: along an axis, result i meets tap t at source (i step + origin + t advance) / divisor, where
// that is whole and inside. There is no product of matrices, so this is bound by memory and caches.
//
// A block computes 64 channels of 64 or 16 strips of 4 neighbouring pixels; its threads are neighbours along channels.
// A thread computes a strip for 4 channels with packs of 4, or for one channel where packs do not fit (a multiplier, a
// number of channels that is not a multiple of 4, arrays that are not aligned). The block's weights lie in shared
// memory, (taps, 64) in the type that is computed in: 2,304 bytes for 3 x 3 in float, at most 48 KB.
// Registers on sm_80 (sm_90a), no spills: 60 to 100 (70 to 104). Measured share of the peer: not run on a GPU.
#include "cuda/conv2d/epilogue.h"
#include "cuda/conv2d/kernels.h"

namespace imgrec::cuda {
namespace {

constexpr int block_threads = 256, block_channels = 64, strip = 4;

struct DepthwiseAxis {
  int source, results, step, origin, advance, taps;
  FastDivisor divisor;

  /// Where result `index` meets a tap, or -1.
  __device__ __forceinline__ int find(int index, int tap) const {
    const int position = index * step + origin + tap * advance;
    if (position < 0) return -1;
    const auto at = divisor.divide(position);
    return at.remainder == 0 && at.quotient < source ? static_cast<int>(at.quotient) : -1;
  }
};

struct DepthwisePass {
  DepthwiseAxis height, width;
  FastDivisor rows, strips;  // of an image of results; of one of its rows
  std::int64_t strip_count;
  std::int64_t channels, source_channels;
  int spread, fold;  // results per source channel, source channels per result: the multiplier, forward and back
};

/// (taps, block_channels) weights of the r-th filter of each result channel.
template <class T>
__device__ void load_weights(Compute<T>* to, const T* weight, const DepthwisePass& pass, std::int64_t first, int r) {
  const int taps = pass.height.taps * pass.width.taps;
  __syncthreads();
  for (int i = threadIdx.x; i < taps * block_channels; i += block_threads) {
    const std::int64_t channel = first + i % block_channels;
    to[i] = channel < pass.channels ? widen(weight[(channel * pass.fold + r) * taps + i / block_channels]) : 0;
  }
  __syncthreads();
}

template <class T, int Width>
__global__ void __launch_bounds__(block_threads, 2)
    depthwise_kernel(ForwardEpilogue<T> output, const T* source, const T* weight, DepthwisePass pass,
                     FastDivisor channel_tiles) {
  using Number = Compute<T>;
  constexpr int packs = block_channels / Width;
  DYN_SHARED(Number, weights);
  const auto tile = channel_tiles.divide(blockIdx.x);
  const std::int64_t first = tile.remainder * block_channels;
  const int in_tile = threadIdx.x % packs * Width;
  const std::int64_t channel = first + in_tile;
  const std::int64_t index = tile.quotient * (block_threads / packs) + threadIdx.x / packs;
  const bool works = index < pass.strip_count && channel < pass.channels;
  const auto column = pass.strips.divide(works ? index : 0), row = pass.rows.divide(column.quotient);
  const int i = static_cast<int>(row.remainder), j = static_cast<int>(column.remainder) * strip;

  Number sums[strip][Width] = {};
  for (int r = 0; r < pass.fold; ++r) {
    load_weights(weights, weight, pass, first, r);
    const T* const from = source + channel / pass.spread * pass.fold + r;
    for (int kh = 0; works && kh < pass.height.taps; ++kh) {
      const int y = pass.height.find(i, kh);
      if (y < 0) continue;
      const T* const line = from + (row.quotient * pass.height.source + y) * pass.width.source * pass.source_channels;
      for (int kw = 0; kw < pass.width.taps; ++kw) {
        const auto factor = load_pack<Number, Width>(weights + (kh * pass.width.taps + kw) * block_channels + in_tile);
#pragma unroll
        for (int s = 0; s < strip; ++s) {
          const int x = pass.width.find(j + s, kw);
          if (x < 0) continue;
          const auto pack = load_pack<T, Width>(line + x * pass.source_channels);
#pragma unroll
          for (int c = 0; c < Width; ++c) sums[s][c] += widen(pack.values[c]) * factor.values[c];
        }
      }
    }
  }
#pragma unroll
  for (int s = 0; s < strip; ++s) {
    Number run[4] = {};
#pragma unroll
    for (int c = 0; c < Width; ++c) run[c] = sums[s][c];
    if (works && j + s < pass.width.results) output(column.quotient * pass.width.results + j + s, channel, Width, run);
  }
}

DepthwisePass pass_of(const Conv2dShape& shape, bool forward) {
  const auto axis_of = [&](const Conv2dAxis& axis) {
    const int stride = static_cast<int>(axis.stride), dilation = static_cast<int>(axis.dilation);
    const int before = static_cast<int>(axis.padding_before), taps = static_cast<int>(axis.kernel);
    const int input = static_cast<int>(axis.input), output = static_cast<int>(axis.output());
    return forward ? DepthwiseAxis{input, output, stride, -before, dilation, taps, FastDivisor(1)}
                   : DepthwiseAxis{output, input, 1, before, -dilation, taps, FastDivisor(axis.stride)};
  };
  const DepthwiseAxis height = axis_of(shape.height), width = axis_of(shape.width);
  const std::int64_t strips = (width.results + strip - 1) / strip;
  const int multiplier = static_cast<int>(shape.group_out());
  return {height,
          width,
          FastDivisor(height.results),
          FastDivisor(strips),
          shape.batch * height.results * strips,
          forward ? shape.out_channels : shape.in_channels,
          forward ? shape.in_channels : shape.out_channels,
          forward ? multiplier : 1,
          forward ? 1 : multiplier};
}

template <class T, int Width>
void launch_depthwise(const Context& context, const ForwardEpilogue<T>& output, const Array& source,
                      const Array& weight, const DepthwisePass& pass) {
  const std::int64_t tiles = (pass.channels + block_channels - 1) / block_channels;
  constexpr std::int64_t strips = block_threads / (block_channels / Width);
  const std::int64_t blocks = (pass.strip_count + strips - 1) / strips * tiles;
  const std::int64_t shared =
      static_cast<std::int64_t>(sizeof(Compute<T>)) * pass.height.taps * pass.width.taps * block_channels;
  LAUNCH((depthwise_kernel<T, Width>), context,
         {.blocks = static_cast<unsigned>(blocks), .threads = block_threads, .shared_bytes = shared}, output,
         source.as<const T>(), weight.as<const T>(), pass, FastDivisor(tiles));
}

template <class T>
void launch_depthwise(const Context& context, const ForwardEpilogue<T>& output, const Array& source,
                      const Array& weight, const DepthwisePass& pass) {
  const bool packs = pass.spread * pass.fold == 1 && pass.channels % 4 == 0 &&
                     reinterpret_cast<std::uintptr_t>(source.data) % sizeof(Pack<T, 4>) == 0;
  if (packs)
    launch_depthwise<T, 4>(context, output, source, weight, pass);
  else
    launch_depthwise<T, 1>(context, output, source, weight, pass);
}

}  // namespace

bool depthwise_serves(const Conv2dShape& shape, DType dtype) {
  const std::int64_t bytes = shape.taps() * block_channels * (dtype == DType::float64 ? 8 : 4);
  return shape.groups > 1 && shape.group_in() == 1 && shape.group_out() > 0 && is_moderate(shape) && bytes <= 48 << 10;
}

void conv2d_depthwise(const Context& context, const Conv2dForward& arrays, const Conv2dShape& shape) {
  for_floating(arrays.y.dtype, [&](auto type) {
    launch_depthwise(context, forward_epilogue<decltype(type)>(arrays, shape), arrays.x, arrays.weight,
                     pass_of(shape, true));
  });
}

void conv2d_depthwise(const Context& context, const Conv2dBackwardInput& arrays, const Conv2dShape& shape) {
  for_floating(arrays.dx.dtype, [&](auto type) {
    using T = decltype(type);
    const ForwardEpilogue<T> output{arrays.dx.as<T>(), nullptr, nullptr, shape.in_channels, Activation::none};
    launch_depthwise(context, output, arrays.dy, arrays.weight, pass_of(shape, false));
  });
}

}  // namespace imgrec::cuda
