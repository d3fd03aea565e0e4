#include "ops/pool2d.h"

#include <algorithm>
#include <limits>

#include "cpu/channel_block.h"
#include "cpu/parallel.h"

namespace imgrec {
namespace cpu {
namespace {

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

  /// The outputs whose windows hold an input, where `before` are those of an input that is not greater.
  Range windows_of(std::int64_t input, Range before) const {
    while (before.begin < outputs && window(before.begin).end <= input) ++before.begin;
    while (before.end < outputs && window(before.end).begin <= input) ++before.end;
    return before;
  }

  /// The same from nothing.
  Range windows_of(std::int64_t input) const {
    const std::int64_t position = adaptive() ? input * outputs / inputs : (input + padding - kernel) / stride;
    const std::int64_t start = std::clamp<std::int64_t>(position, 0, outputs);
    return windows_of(input, {start, start});
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

/// A pixel of the array that is written.
struct Pixel {
  std::int64_t image, row, column;
};

/// Calls body(image, row) for every row of pixels that is written, `rows` in an image; a task has some. Each pixel
/// collects what belongs to it, so no two tasks write to the same place and the order of each sum is fixed.
template <class Body>
void for_pixel_rows(const Context& context, const Pooling& pooling, std::int64_t rows, Body&& body) {
  const std::int64_t read = pooling.horizontal.inputs * pooling.channels *
                            std::max<std::int64_t>(pooling.vertical.inputs / std::max<std::int64_t>(rows, 1), 1);
  const std::int64_t grain = std::max<std::int64_t>(task_elements / std::max<std::int64_t>(read, 1), 1);
  parallel_range(context, pooling.images * rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) body(row / rows, row % rows);
  });
}

/// Calls body(pixel, rows, columns) for every output pixel with the inputs in its window.
template <class Body>
void for_outputs(const Context& context, const Pooling& pooling, Body&& body) {
  for_pixel_rows(context, pooling, pooling.vertical.outputs, [&](std::int64_t image, std::int64_t row) {
    const Range rows = pooling.vertical.window(row);
    for (std::int64_t column = 0; column < pooling.horizontal.outputs; ++column)
      body(Pixel{image, row, column}, rows, pooling.horizontal.window(column));
  });
}

/// Calls body(pixel, rows, columns) for every input pixel with the outputs whose windows hold it.
template <class Body>
void for_inputs(const Context& context, const Pooling& pooling, Body&& body) {
  for_pixel_rows(context, pooling, pooling.vertical.inputs, [&](std::int64_t image, std::int64_t row) {
    const Range rows = pooling.vertical.windows_of(row);
    Range columns = {0, 0};
    for (std::int64_t column = 0; column < pooling.horizontal.inputs; ++column) {
      columns = pooling.horizontal.windows_of(column, columns);
      body(Pixel{image, row, column}, rows, columns);
    }
  });
}

/// A position for each lane, as it is stored.
template <class S, class W>
struct StoredPositions {
  typedef W type __attribute__((vector_size(wide_lanes<S> * sizeof(W))));
};

template <class S, class W>
IntegerVector<Compute<S>> load_positions(const W* from, int count) {
  typename StoredPositions<S, W>::type stored{};
  std::memcpy(&stored, from, static_cast<std::size_t>(count) * sizeof(W));
  return __builtin_convertvector(stored, IntegerVector<Compute<S>>);
}

template <class S, class W>
void store_positions(W* to, IntegerVector<Compute<S>> positions, int count) {
  const auto stored = __builtin_convertvector(positions, typename StoredPositions<S, W>::type);
  std::memcpy(to, &stored, static_cast<std::size_t>(count) * sizeof(W));
}

template <class S, class W>
void max_forward(const Context& context, const Pooling& pooling, S* y, W* winner, const S* x) {
  using T = Compute<S>;
  using Position = decltype(IntegerVector<T>{}[0] + 0);
  const Axis &vertical = pooling.vertical, &horizontal = pooling.horizontal;
  for_outputs(context, pooling, [&](Pixel pixel, Range rows, Range columns) {
    const std::int64_t top = vertical.start(pixel.row), left = horizontal.start(pixel.column);
    const auto position = [&](std::int64_t row, std::int64_t column) {
      return static_cast<Position>((row - top) * horizontal.kernel + column - left);
    };
    const std::int64_t to = pooling.output(pixel.image, pixel.row, pixel.column);
    for_channel_blocks<S>(pooling.channels, [&](const auto& block) {
      constexpr int vectors = std::decay_t<decltype(block)>::size;
      Vectors<T, vectors> best;
      IntegerVector<T> found[vectors];
      for (int v = 0; v < vectors; ++v) {
        best.at[v] = broadcast(-std::numeric_limits<T>::infinity());
        found[v] = position(rows.begin, columns.begin) - IntegerVector<T>{};
      }
      for (std::int64_t row = rows.begin; row < rows.end; ++row)
        for (std::int64_t column = columns.begin; column < columns.end; ++column) {
          const S* from = x + pooling.input(pixel.image, row, column);
          const IntegerVector<T> here = position(row, column) - IntegerVector<T>{};
          for (int v = 0; v < vectors; ++v) {
            const Vector<T> value = load_wide(from + block.channel(v), block.lanes_of());
            const IntegerVector<T> better = (value > best.at[v]) | (value != value);
            best.at[v] = better ? value : best.at[v];
            found[v] = better ? here : found[v];
          }
        }
      for (int v = 0; v < vectors; ++v) {
        store_narrow(y + to + block.channel(v), best.at[v], block.lanes_of());
        store_positions<S>(winner + to + block.channel(v), found[v], block.lanes_of());
      }
    });
  });
}

/// dx[pixel] = the sum of term(pixel, row, column, output, count), the vector at y's `output`, for each window that
/// holds the pixel.
template <class S, class Term>
void gather(const Context& context, const Pooling& pooling, S* dx, Term&& term) {
  for_inputs(context, pooling, [&](Pixel pixel, Range rows, Range columns) {
    S* to = dx + pooling.input(pixel.image, pixel.row, pixel.column);
    for_channel_blocks<S>(pooling.channels, [&](const auto& block) {
      Vectors<Compute<S>, std::decay_t<decltype(block)>::size> sum = {};
      for (std::int64_t row = rows.begin; row < rows.end; ++row)
        for (std::int64_t column = columns.begin; column < columns.end; ++column) {
          const std::int64_t from = pooling.output(pixel.image, row, column);
          const auto term_at = term(pixel, row, column);
          for (int v = 0; v < block.size; ++v) sum.at[v] += term_at(from + block.channel(v), block.lanes_of());
        }
      for (int v = 0; v < block.size; ++v) store_narrow(to + block.channel(v), sum.at[v], block.lanes_of());
    });
  });
}

template <class S, class W>
void max_backward(const Context& context, const Pooling& pooling, S* dx, const S* dy, const W* winner) {
  using T = Compute<S>;
  const Axis &vertical = pooling.vertical, &horizontal = pooling.horizontal;
  gather(context, pooling, dx, [&](Pixel pixel, std::int64_t row, std::int64_t column) {
    const std::int64_t here =
        (pixel.row - vertical.start(row)) * horizontal.kernel + pixel.column - horizontal.start(column);
    return [=](std::int64_t at, int count) {
      const IntegerVector<T> winners = load_positions<S>(winner + at, count);
      return winners == static_cast<decltype(winners[0] + 0)>(here) ? load_wide(dy + at, count) : Vector<T>{};
    };
  });
}

template <class S>
void average_forward(const Context& context, const Pooling& pooling, S* y, const S* x) {
  using T = Compute<S>;
  for_outputs(context, pooling, [&](Pixel pixel, Range rows, Range columns) {
    const T divisor = static_cast<T>(pooling.vertical.divisor(pixel.row) * pooling.horizontal.divisor(pixel.column));
    S* to = y + pooling.output(pixel.image, pixel.row, pixel.column);
    for_channel_blocks<S>(pooling.channels, [&](const auto& block) {
      Vectors<T, std::decay_t<decltype(block)>::size> sum = {};
      for (std::int64_t row = rows.begin; row < rows.end; ++row)
        for (std::int64_t column = columns.begin; column < columns.end; ++column) {
          const S* from = x + pooling.input(pixel.image, row, column);
          for (int v = 0; v < block.size; ++v) sum.at[v] += load_wide(from + block.channel(v), block.lanes_of());
        }
      for (int v = 0; v < block.size; ++v) store_narrow(to + block.channel(v), sum.at[v] / divisor, block.lanes_of());
    });
  });
}

template <class S>
void average_backward(const Context& context, const Pooling& pooling, S* dx, const S* dy) {
  using T = Compute<S>;
  gather(context, pooling, dx, [&](Pixel, std::int64_t row, std::int64_t column) {
    const T weight = T(1) / static_cast<T>(pooling.vertical.divisor(row) * pooling.horizontal.divisor(column));
    return [=](std::int64_t at, int count) { return weight * load_wide(dy + at, count); };
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
