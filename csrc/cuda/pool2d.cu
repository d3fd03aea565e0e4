// Max, average and adaptive average pooling.
//
//   forward   y[n, oh, ow, c] = max or mean of x[n, h, w, c] over the window of (oh, ow)
//   backward  dx[n, h, w, c] = sum over the windows that hold (h, w) of their share in dy[n, oh, ow, c]
//
//   x, dx (N, H, W, C); y, dy, winner (N, OH, OW, C)
//
// A thread computes one pixel's run of channels, 16 bytes where C can be cut into such, of the array that is written:
// it gathers what belongs to it, so that sums have one order and nothing needs atomics. Neighbouring threads have
// neighbouring channels, then pixels: accesses are whole lines, and what windows share is found in the cache. Axis
// answers which inputs are in a window and which windows hold an input; adaptive pooling differs in it alone. Bound by
// memory: x and y (and winner) once each. No shared memory.
//
// At most 75 registers on sm_80 (80 on sm_90a), no spills; measured share of the peer: not run on a GPU.
#include "ops/pool2d.h"

#include "cuda/arch/pack.h"
#include "cuda/gemm/divide.h"

namespace imgrec {
namespace cuda {
namespace {

constexpr int block_threads = 256;

FastDivisor divisor_of(std::int64_t value) { return FastDivisor(std::max<std::int64_t>(value, 1)); }

struct Range {
  std::int64_t begin, end;
};

/// How inputs and outputs belong to each other along one axis. An adaptive axis has no kernel.
struct Axis {
  std::int64_t inputs, outputs, kernel, stride, padding;
  FastDivisor by_inputs, by_outputs, by_stride;

  Axis(const Array& x, const Array& y, const PoolWindow& window, int i)
      : inputs(x.shape[1 + i]),
        outputs(y.shape[1 + i]),
        kernel(window.kernel[i]),
        stride(window.stride[i]),
        padding(window.padding[i]),
        by_inputs(divisor_of(inputs)),
        by_outputs(divisor_of(outputs)),
        by_stride(divisor_of(stride)) {}

  __device__ __forceinline__ bool adaptive() const { return kernel == 0; }

  /// Where an output's window begins; in the padding if negative.
  __device__ __forceinline__ std::int64_t start(std::int64_t output) const { return output * stride - padding; }

  /// The inputs in an output's window.
  __device__ __forceinline__ Range window(std::int64_t output) const {
    if (adaptive())
      return {by_outputs.divide(output * inputs).quotient,
              by_outputs.divide((output + 1) * inputs + outputs - 1).quotient};
    const std::int64_t first = start(output);
    return {first < 0 ? 0 : first, first + kernel < inputs ? first + kernel : inputs};
  }

  /// The outputs whose windows hold an input.
  __device__ __forceinline__ Range windows_of(std::int64_t input) const {
    if (adaptive())
      return {by_inputs.divide(input * outputs).quotient,
              by_inputs.divide((input + 1) * outputs + inputs - 1).quotient};
    const std::int64_t before = input + padding - kernel;  // the last start that ends before the input
    const std::int64_t end = by_stride.divide(input + padding).quotient + 1;
    return {before < 0 ? 0 : by_stride.divide(before).quotient + 1, end < outputs ? end : outputs};
  }

  /// What an output's sum is divided by.
  __device__ __forceinline__ std::int64_t divisor(std::int64_t output) const {
    return adaptive() ? window(output).end - window(output).begin : kernel;
  }
};

/// A pixel of the array that is written, and where its run of channels begins.
struct PixelRun {
  std::int64_t image, row, column, channel;
};

struct Pooling {
  Axis vertical, horizontal;
  std::int64_t channels, runs;  // runs: of channels, in the array that is written
  int run;                      // channels of each
  bool aligned;
  FastDivisor by_channel_runs, by_columns, by_rows;

  template <class... Others>
  Pooling(const Array& x, const Array& y, const PoolWindow& window, const Array& written, const Others&... others)
      : vertical(x, y, window, 0),
        horizontal(x, y, window, 1),
        channels(x.shape[3]),
        run(channels % (16 / size_of(x.dtype)) == 0 ? static_cast<int>(16 / size_of(x.dtype)) : 1),
        aligned(aligned_for_packs(x.data, y.data, others.data...)),
        by_channel_runs(channels / run),
        by_columns(written.shape[2]),
        by_rows(written.shape[1]) {
    runs = written.size() / run;
  }

  __device__ __forceinline__ std::int64_t input(const PixelRun& place, std::int64_t row, std::int64_t column) const {
    return ((place.image * vertical.inputs + row) * horizontal.inputs + column) * channels + place.channel;
  }
  __device__ __forceinline__ std::int64_t output(const PixelRun& place, std::int64_t row, std::int64_t column) const {
    return ((place.image * vertical.outputs + row) * horizontal.outputs + column) * channels + place.channel;
  }

  /// Calls body(place) for every run of the thread's share.
  template <class Body>
  __device__ __forceinline__ void for_runs(Body&& body) const {
    std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    for (; i < runs; i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
      const auto pixel = by_channel_runs.divide(i), line = by_columns.divide(pixel.quotient);
      const auto image = by_rows.divide(line.quotient);
      body(PixelRun{image.quotient, image.remainder, line.remainder, pixel.remainder * run});
    }
  }

  LaunchConfig config(const Context& context) const {
    return filling_config(context, (runs + block_threads - 1) / block_threads, block_threads);
  }
};

template <class T, class W>
__global__ void __launch_bounds__(block_threads)
    max_pool2d_forward_kernel(T* y, W* winner, const T* x, const Pooling pooling) {
  using C = Compute<T>;
  constexpr int width = pack_width<T>;
  const Axis &vertical = pooling.vertical, &horizontal = pooling.horizontal;
  pooling.for_runs([&](const PixelRun& place) {
    const Range rows = vertical.window(place.row), columns = horizontal.window(place.column);
    const std::int64_t top = vertical.start(place.row), left = horizontal.start(place.column);
    C best[width];
    Pack<W, width> position;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      best[k] = -INFINITY;
      position.values[k] = static_cast<W>((rows.begin - top) * horizontal.kernel + columns.begin - left);
    }
    for (std::int64_t row = rows.begin; row < rows.end; ++row)
      for (std::int64_t column = columns.begin; column < columns.end; ++column) {
        const auto run = load_run<T, width>(x + pooling.input(place, row, column), pooling.run, pooling.aligned);
        const auto here = static_cast<W>((row - top) * horizontal.kernel + column - left);
#pragma unroll
        for (int k = 0; k < width; ++k) {
          const C value = widen(run.values[k]);
          const bool better = value > best[k] || value != value;  // the last NaN stays: nothing is greater
          best[k] = better ? value : best[k];
          position.values[k] = better ? here : position.values[k];
        }
      }
    Pack<T, width> greatest;
#pragma unroll
    for (int k = 0; k < width; ++k) greatest.values[k] = narrow<T>(best[k]);
    const std::int64_t to = pooling.output(place, place.row, place.column);
    store_run(y + to, greatest, pooling.run, pooling.aligned);
    store_run(winner + to, position, pooling.run, pooling.aligned);
  });
}

/// dx[place] = the sum of what add(sum, row, column, offset in dy) contributes for each window that holds the place.
template <class T, class Add>
__device__ __forceinline__ void gather(T* dx, const Pooling& pooling, const PixelRun& place, Add&& add) {
  constexpr int width = pack_width<T>;
  const Range rows = pooling.vertical.windows_of(place.row), columns = pooling.horizontal.windows_of(place.column);
  Compute<T> sum[width] = {};
  for (std::int64_t row = rows.begin; row < rows.end; ++row)
    for (std::int64_t column = columns.begin; column < columns.end; ++column)
      add(sum, row, column, pooling.output(place, row, column));
  Pack<T, width> result;
#pragma unroll
  for (int k = 0; k < width; ++k) result.values[k] = narrow<T>(sum[k]);
  store_run(dx + pooling.input(place, place.row, place.column), result, pooling.run, pooling.aligned);
}

template <class T, class W>
__global__ void __launch_bounds__(block_threads)
    max_pool2d_backward_kernel(T* dx, const T* dy, const W* winner, const Pooling pooling) {
  using C = Compute<T>;
  constexpr int width = pack_width<T>;
  const Axis &vertical = pooling.vertical, &horizontal = pooling.horizontal;
  pooling.for_runs([&](const PixelRun& place) {
    gather(dx, pooling, place, [&](C(&sum)[width], std::int64_t row, std::int64_t column, std::int64_t from) {
      const auto here = static_cast<W>((place.row - vertical.start(row)) * horizontal.kernel + place.column -
                                       horizontal.start(column));
      const auto gradients = load_run<T, width>(dy + from, pooling.run, pooling.aligned);
      const auto winners = load_run<W, width>(winner + from, pooling.run, pooling.aligned);
#pragma unroll
      for (int k = 0; k < width; ++k) sum[k] += winners.values[k] == here ? widen(gradients.values[k]) : C(0);
    });
  });
}

template <class T>
__global__ void __launch_bounds__(block_threads) avg_pool2d_forward_kernel(T* y, const T* x, const Pooling pooling) {
  using C = Compute<T>;
  constexpr int width = pack_width<T>;
  pooling.for_runs([&](const PixelRun& place) {
    const Range rows = pooling.vertical.window(place.row), columns = pooling.horizontal.window(place.column);
    C sum[width] = {};
    for (std::int64_t row = rows.begin; row < rows.end; ++row)
      for (std::int64_t column = columns.begin; column < columns.end; ++column) {
        const auto run = load_run<T, width>(x + pooling.input(place, row, column), pooling.run, pooling.aligned);
#pragma unroll
        for (int k = 0; k < width; ++k) sum[k] += widen(run.values[k]);
      }
    const auto divisor = static_cast<C>(pooling.vertical.divisor(place.row) * pooling.horizontal.divisor(place.column));
    Pack<T, width> result;
#pragma unroll
    for (int k = 0; k < width; ++k) result.values[k] = narrow<T>(sum[k] / divisor);
    store_run(y + pooling.output(place, place.row, place.column), result, pooling.run, pooling.aligned);
  });
}

template <class T>
__global__ void __launch_bounds__(block_threads) avg_pool2d_backward_kernel(T* dx, const T* dy, const Pooling pooling) {
  using C = Compute<T>;
  constexpr int width = pack_width<T>;
  pooling.for_runs([&](const PixelRun& place) {
    gather(dx, pooling, place, [&](C(&sum)[width], std::int64_t row, std::int64_t column, std::int64_t from) {
      const C share = C(1) / static_cast<C>(pooling.vertical.divisor(row) * pooling.horizontal.divisor(column));
      const auto gradients = load_run<T, width>(dy + from, pooling.run, pooling.aligned);
#pragma unroll
      for (int k = 0; k < width; ++k) sum[k] += share * widen(gradients.values[k]);
    });
  });
}

/// Calls body with a typed pointer to `winner`, whose dtype the size of the window decides.
template <class Body>
void for_winner(const Array& winner, Body&& body) {
  if (winner.dtype == DType::uint8)
    body(winner.as<std::uint8_t>());
  else
    body(winner.as<std::int32_t>());
}

constexpr PoolWindow adaptive_window = {};

}  // namespace
}  // namespace cuda

void max_pool2d_forward(const Context& context, const Array& y, const Array& winner, const Array& x,
                        const PoolWindow& window) {
  const cuda::Pooling pooling(x, y, window, y, winner);
  cuda::for_floating(x.dtype, [&](auto type) {
    using T = decltype(type);
    cuda::for_winner(winner, [&](auto* positions) {
      using W = std::remove_pointer_t<decltype(positions)>;
      LAUNCH((cuda::max_pool2d_forward_kernel<T, W>), context, pooling.config(context), y.as<T>(), positions,
             x.as<const T>(), pooling);
    });
  });
}

void max_pool2d_backward(const Context& context, const Array& dx, const Array& dy, const Array& winner,
                         const PoolWindow& window) {
  const cuda::Pooling pooling(dx, dy, window, dx, winner);
  cuda::for_floating(dx.dtype, [&](auto type) {
    using T = decltype(type);
    cuda::for_winner(winner, [&](auto* positions) {
      using W = std::remove_pointer_t<decltype(positions)>;
      LAUNCH((cuda::max_pool2d_backward_kernel<T, W>), context, pooling.config(context), dx.as<T>(), dy.as<const T>(),
             positions, pooling);
    });
  });
}

void avg_pool2d_forward(const Context& context, const Array& y, const Array& x, const PoolWindow& window) {
  const cuda::Pooling pooling(x, y, window, y);
  cuda::for_floating(x.dtype, [&](auto type) {
    using T = decltype(type);
    LAUNCH((cuda::avg_pool2d_forward_kernel<T>), context, pooling.config(context), y.as<T>(), x.as<const T>(), pooling);
  });
}

void avg_pool2d_backward(const Context& context, const Array& dx, const Array& dy, const PoolWindow& window) {
  const cuda::Pooling pooling(dx, dy, window, dx);
  cuda::for_floating(dx.dtype, [&](auto type) {
    using T = decltype(type);
    LAUNCH((cuda::avg_pool2d_backward_kernel<T>), context, pooling.config(context), dx.as<T>(), dy.as<const T>(),
           pooling);
  });
}

void adaptive_avg_pool2d_forward(const Context& context, const Array& y, const Array& x) {
  avg_pool2d_forward(context, y, x, cuda::adaptive_window);
}

void adaptive_avg_pool2d_backward(const Context& context, const Array& dx, const Array& dy) {
  avg_pool2d_backward(context, dx, dy, cuda::adaptive_window);
}

}  // namespace imgrec
