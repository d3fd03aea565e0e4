#include "ops/pool2d.h"

#include <algorithm>
#include <limits>

#include "cpu/dtypes.h"
#include "cpu/parallel.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t channel_block = 256;      // channels worked on at once: their sums stay in the first-level cache
constexpr std::int64_t task_elements = 1 << 15;  // elements that a task reads, at least

struct Range {
  std::int64_t begin, end;
};

/// How inputs and outputs belong to each other along one axis. An adaptive axis has no kernel.
struct Axis {
  std::int64_t inputs, outputs, kernel, stride, padding;

  bool adaptive() const { return kernel == 0; }

  /// Where an output's window begins; in the padding if negative.
  std::int64_t start(std::int64_t output) const { return output * stride - padding; }

  /// What an output's sum is divided by.
  std::int64_t divisor(std::int64_t output) const {
    return adaptive() ? window(output).end - window(output).begin : kernel;
  }

  /// The inputs in an output's window.
  Range window(std::int64_t output) const {
    if (adaptive()) return {output * inputs / outputs, ((output + 1) * inputs + outputs - 1) / outputs};
    return {std::max<std::int64_t>(start(output), 0), std::min(start(output) + kernel, inputs)};
  }

  /// The outputs whose windows hold an input.
  Range windows_of(std::int64_t input) const {
    if (adaptive()) return {input * outputs / inputs, ((input + 1) * outputs + inputs - 1) / inputs};
    const std::int64_t before = input + padding - kernel;  // the last start that ends before the input
    return {before < 0 ? 0 : before / stride + 1, std::min((input + padding) / stride + 1, outputs)};
  }
};

struct Pooling {
  std::int64_t images, channels;
  Axis vertical, horizontal;

  Pooling(const Array& x, const Array& y, const PoolWindow& window)
      : images(x.shape[0]),
        channels(x.shape[3]),
        vertical{x.shape[1], y.shape[1], window.kernel[0], window.stride[0], window.padding[0]},
        horizontal{x.shape[2], y.shape[2], window.kernel[1], window.stride[1], window.padding[1]} {}

  std::int64_t input(std::int64_t image, std::int64_t row, std::int64_t column) const {
    return ((image * vertical.inputs + row) * horizontal.inputs + column) * channels;
  }
  std::int64_t output(std::int64_t image, std::int64_t row, std::int64_t column) const {
    return ((image * vertical.outputs + row) * horizontal.outputs + column) * channels;
  }
};

/// A pixel of the array that is written, and the channels [channel, channel + count) of it.
struct Pixel {
  std::int64_t image, row, column, channel;
  int count;
};

/// Calls body for every pixel of `images` images of rows x columns; a task has some rows. Each pixel collects what
/// belongs to it, so no two tasks write to the same place and the order of each sum is fixed.
template <class Body>
void for_pixels(const Context& context, const Pooling& pooling, std::int64_t rows, std::int64_t columns, Body&& body) {
  const std::int64_t read = pooling.horizontal.inputs * pooling.channels *
                            std::max<std::int64_t>(pooling.vertical.inputs / std::max<std::int64_t>(rows, 1), 1);
  const std::int64_t grain = std::max<std::int64_t>(task_elements / std::max<std::int64_t>(read, 1), 1);
  parallel_range(context, pooling.images * rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      for (std::int64_t column = 0; column < columns; ++column)
        for (std::int64_t channel = 0; channel < pooling.channels; channel += channel_block)
          body(Pixel{row / rows, row % rows, column, channel,
                     static_cast<int>(std::min(channel_block, pooling.channels - channel))});
  });
}

template <class S, class W>
void max_forward(const Context& context, const Pooling& pooling, S* y, W* winner, const S* x) {
  using T = Compute<S>;
  const Axis &vertical = pooling.vertical, &horizontal = pooling.horizontal;
  for_pixels(context, pooling, vertical.outputs, horizontal.outputs, [&](Pixel pixel) {
    const Range rows = vertical.window(pixel.row), columns = horizontal.window(pixel.column);
    const std::int64_t top = vertical.start(pixel.row), left = horizontal.start(pixel.column);
    T best[channel_block];
    std::int32_t position[channel_block];
    std::fill(best, best + pixel.count, -std::numeric_limits<T>::infinity());
    std::fill(position, position + pixel.count,
              static_cast<std::int32_t>((rows.begin - top) * horizontal.kernel + columns.begin - left));
    for (std::int64_t row = rows.begin; row < rows.end; ++row)
      for (std::int64_t column = columns.begin; column < columns.end; ++column) {
        const S* from = x + pooling.input(pixel.image, row, column) + pixel.channel;
        const auto here = static_cast<std::int32_t>((row - top) * horizontal.kernel + column - left);
        for (int c = 0; c < pixel.count; ++c) {
          const T value = widen(from[c]);
          const bool better = (value > best[c]) | (value != value);
          best[c] = better ? value : best[c];
          position[c] = better ? here : position[c];
        }
      }
    const std::int64_t to = pooling.output(pixel.image, pixel.row, pixel.column) + pixel.channel;
    for (int c = 0; c < pixel.count; ++c) y[to + c] = narrow<S>(best[c]);
    for (int c = 0; c < pixel.count; ++c) winner[to + c] = static_cast<W>(position[c]);
  });
}

/// dx[pixel] = the sum of what `add` contributes for each window that holds the pixel.
template <class S, class Add>
void gather(const Context& context, const Pooling& pooling, S* dx, Add&& add) {
  using T = Compute<S>;
  for_pixels(context, pooling, pooling.vertical.inputs, pooling.horizontal.inputs, [&](Pixel pixel) {
    const Range rows = pooling.vertical.windows_of(pixel.row);
    const Range columns = pooling.horizontal.windows_of(pixel.column);
    T sum[channel_block];
    std::fill(sum, sum + pixel.count, T(0));
    for (std::int64_t row = rows.begin; row < rows.end; ++row)
      for (std::int64_t column = columns.begin; column < columns.end; ++column)
        add(sum, pixel, row, column, pooling.output(pixel.image, row, column) + pixel.channel);
    S* to = dx + pooling.input(pixel.image, pixel.row, pixel.column) + pixel.channel;
    for (int c = 0; c < pixel.count; ++c) to[c] = narrow<S>(sum[c]);
  });
}

template <class S, class W>
void max_backward(const Context& context, const Pooling& pooling, S* dx, const S* dy, const W* winner) {
  using T = Compute<S>;
  const Axis &vertical = pooling.vertical, &horizontal = pooling.horizontal;
  gather(context, pooling, dx, [&](T* sum, Pixel pixel, std::int64_t row, std::int64_t column, std::int64_t from) {
    const auto here =
        static_cast<W>((pixel.row - vertical.start(row)) * horizontal.kernel + pixel.column - horizontal.start(column));
    const S* gradients = dy + from;
    const W* winners = winner + from;
    for (int c = 0; c < pixel.count; ++c) {
      const T gradient = widen(gradients[c]);
      sum[c] += winners[c] == here ? gradient : T(0);
    }
  });
}

template <class S>
void average_forward(const Context& context, const Pooling& pooling, S* y, const S* x) {
  using T = Compute<S>;
  const Axis &vertical = pooling.vertical, &horizontal = pooling.horizontal;
  for_pixels(context, pooling, vertical.outputs, horizontal.outputs, [&](Pixel pixel) {
    const Range rows = vertical.window(pixel.row), columns = horizontal.window(pixel.column);
    T sum[channel_block];
    std::fill(sum, sum + pixel.count, T(0));
    for (std::int64_t row = rows.begin; row < rows.end; ++row)
      for (std::int64_t column = columns.begin; column < columns.end; ++column) {
        const S* from = x + pooling.input(pixel.image, row, column) + pixel.channel;
        for (int c = 0; c < pixel.count; ++c) sum[c] += widen(from[c]);
      }
    const T divisor = static_cast<T>(vertical.divisor(pixel.row) * horizontal.divisor(pixel.column));
    S* to = y + pooling.output(pixel.image, pixel.row, pixel.column) + pixel.channel;
    for (int c = 0; c < pixel.count; ++c) to[c] = narrow<S>(sum[c] / divisor);
  });
}

template <class S>
void average_backward(const Context& context, const Pooling& pooling, S* dx, const S* dy) {
  using T = Compute<S>;
  const Axis &vertical = pooling.vertical, &horizontal = pooling.horizontal;
  gather(context, pooling, dx, [&](T* sum, Pixel pixel, std::int64_t row, std::int64_t column, std::int64_t from) {
    const T weight = T(1) / static_cast<T>(vertical.divisor(row) * horizontal.divisor(column));
    for (int c = 0; c < pixel.count; ++c) sum[c] += weight * widen(dy[from + c]);
  });
}

/// Calls body with typed pointers to `winner`, whose dtype the size of the window decides.
template <class Body>
void for_winner(const Array& winner, Body&& body) {
  if (winner.dtype == DType::uint8)
    body(winner.as<std::uint8_t>());
  else
    body(winner.as<std::int32_t>());
}

constexpr PoolWindow adaptive_window = {};

}  // namespace
}  // namespace cpu

void max_pool2d_forward(const Context& context, const Array& y, const Array& winner, const Array& x,
                        const PoolWindow& window) {
  cpu::for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    cpu::for_winner(winner, [&](auto* positions) {
      cpu::max_forward(context, {x, y, window}, y.as<S>(), positions, x.as<const S>());
    });
  });
}

void max_pool2d_backward(const Context& context, const Array& dx, const Array& dy, const Array& winner,
                         const PoolWindow& window) {
  cpu::for_floating(dx.dtype, [&](auto tag) {
    using S = decltype(tag);
    cpu::for_winner(winner, [&](const auto* positions) {
      cpu::max_backward(context, {dx, dy, window}, dx.as<S>(), dy.as<const S>(), positions);
    });
  });
}

void avg_pool2d_forward(const Context& context, const Array& y, const Array& x, const PoolWindow& window) {
  cpu::for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    cpu::average_forward(context, {x, y, window}, y.as<S>(), x.as<const S>());
  });
}

void avg_pool2d_backward(const Context& context, const Array& dx, const Array& dy, const PoolWindow& window) {
  cpu::for_floating(dx.dtype, [&](auto tag) {
    using S = decltype(tag);
    cpu::average_backward(context, {dx, dy, window}, dx.as<S>(), dy.as<const S>());
  });
}

void adaptive_avg_pool2d_forward(const Context& context, const Array& y, const Array& x) {
  avg_pool2d_forward(context, y, x, cpu::adaptive_window);
}

void adaptive_avg_pool2d_backward(const Context& context, const Array& dx, const Array& dy) {
  avg_pool2d_backward(context, dx, dy, cpu::adaptive_window);
}

}  // namespace imgrec
