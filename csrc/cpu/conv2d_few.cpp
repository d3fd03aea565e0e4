// Convolutions of few output pixels: conv2d_few.h.
//
//     y[p, o]             = sum over taps t and c of  x[p at t, c] weight[o, t, c]
//     dx[p at t, c]      += sum over o of             dy[p, o]     weight[o, t, c]
//     dweight[o, t, c]    = sum over p of             dy[p, o]     x[p at t, c]
//
// What lies in a row of the weights is contiguous: a few rows are read or written side by side. dx, which is small,
// stays in the cache while short sums over a few of them are added to it. Only pairs of pixels that meet are multiplied
// in the gradients.
#include "cpu/conv2d_few.h"

#include <array>

namespace imgrec::cpu {

void PixelPairs::find(const Conv2dShape& shape) const {
  const Axis height = forward_axis(shape.height), width = forward_axis(shape.width);
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    std::int64_t count = 0, *outputs = outputs_ + tap * most_, *inputs = inputs_ + tap * most_;
    for (std::int64_t output = 0; output < most_; ++output) {
      const Pixel pixel(output, height, width);
      const std::int64_t row = height.position(pixel.row, tap / width.taps);
      const std::int64_t column = width.position(pixel.column, tap % width.taps);
      if (!height.inside(row) || !width.inside(column)) continue;
      outputs[count] = output;
      inputs[count++] = (pixel.image * height.source + row) * width.source + column;
    }
    counts_[tap] = count;
  }
}

namespace {

constexpr int along_columns = vector_registers == 32 ? 4 : 3;  // weights read side by side
constexpr int along_rows = vector_registers == 32 ? 6 : 3;     // pixels at once
constexpr int scatter_rows = vector_registers == 32 ? 8 : 6;
constexpr std::int64_t scatter_depth = 16;

/// The smallest equal parts, none larger than `most`, that `count` can be cut into.
std::int64_t part_of(std::int64_t count, std::int64_t most) {
  const std::int64_t parts = (count + most - 1) / most;
  return (count + parts - 1) / parts;
}

/// Calls body with `count`, 1 ... most, as a constant.
template <int most, class Body>
void with_count(std::int64_t count, Body&& body) {
  if constexpr (most > 1)
    if (count < most) return with_count<most - 1>(count, body);
  body(std::integral_constant<int, most>{});
}

}  // namespace

template <class T>
FewForward<T>::FewForward(const Conv2dShape& shape, Workspace& workspace)
    : shape_(shape),
      pairs_(shape, workspace),
      zeros_(workspace.take<T>(shape.in_channels)),
      pixels_(workspace.take<const T*>(pairs_.taps * shape.outputs())) {}

template <class T>
void FewForward<T>::run(const Context& context, const Array& x, const Array& weight, const Destination& to) const {
  const std::int64_t outputs = shape_.outputs();
  pairs_.find(shape_);
  std::fill_n(zeros_, shape_.in_channels, T(0));
  std::fill_n(pixels_, pairs_.taps * outputs, zeros_);
  for (std::int64_t tap = 0; tap < pairs_.taps; ++tap)
    for (std::int64_t i = 0; i < pairs_.count(tap); ++i)
      pixels_[tap * outputs + pairs_.outputs(tap)[i]] = x.as<const T>() + pairs_.inputs(tap)[i] * shape_.in_channels;
  parallel_range(context, shape_.out_channels, 4 * along_columns, [&](std::int64_t begin, std::int64_t end) {
    for (; begin + along_columns <= end; begin += along_columns) sum_columns<along_columns>(weight, to, begin);
    for (; begin < end; ++begin) sum_columns<1>(weight, to, begin);
  });
  const Output<T> output{.data = to.result.data,
                         .dtype = to.result.dtype,
                         .channels = shape_.out_channels,
                         .pre_activation = to.pre_activation.data,
                         .activation = to.activation};
  output.activate(0, outputs, 0, shape_.out_channels);
}

/// V output channels of all pixels.
template <class T>
template <int V>
void FewForward<T>::sum_columns(const Array& weight, const Destination& to, std::int64_t column) const {
  const std::int64_t outputs = shape_.outputs(), part = part_of(outputs, along_rows);
  for (std::int64_t pixel = 0; pixel < outputs; pixel += part)
    with_count<along_rows>(std::min(part, outputs - pixel),
                           [&](auto rows) { sum<rows, V>(weight, to, pixel, column); });
}

template <class T>
template <int R, int V>
void FewForward<T>::sum(const Array& weight, const Destination& to, std::int64_t pixel, std::int64_t column) const {
  const std::int64_t run = shape_.in_channels, depth = pairs_.taps * run;
  const T* from = weight.as<const T>() + column * depth;
  const T* const* pixels = pixels_ + pixel;
  Vector<T> sums[R][V] = {};
  for (std::int64_t tap = 0; tap < pairs_.taps; ++tap, from += run, pixels += shape_.outputs()) {
    if (pairs_.count(tap) == 0) continue;
    const T* rows[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) rows[r] = pixels[r];
    for (std::int64_t c = 0; c < run; c += lanes<T>) {
      Vector<T> columns[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) columns[v] = load(from + v * depth + c);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vector<T> row = load(rows[r] + c);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[r][v] += row * columns[v];
      }
    }
  }
  T* y = (to.pre_activation ? to.pre_activation : to.result).as<T>() + pixel * shape_.out_channels + column;
  const T* bias = to.bias ? to.bias.as<const T>() + column : no_bias<T>;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) y[r * shape_.out_channels + v] = bias[v] + horizontal_sum<T>(sums[r][v]);
}

namespace {

/// dx[inputs[r]] += sum over `depth` output channels of dy[outputs[r]][o] weight[o], a panel of channels.
template <class T, int R>
void scatter(std::int64_t depth, const std::int64_t* outputs, const T* dy, std::int64_t dy_stride, const T* weight,
             std::int64_t weight_stride, const std::int64_t* inputs, T* dx, std::int64_t dx_stride) {
  const T* rows[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) rows[r] = dy + outputs[r] * dy_stride;
  Vector<T> sums[R][2] = {};
  for (std::int64_t o = 0; o < depth; ++o, weight += weight_stride) {
    const Vector<T> low = load(weight), high = load(weight + lanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sums[r][0] += rows[r][o] * low;
      sums[r][1] += rows[r][o] * high;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    T* to = dx + inputs[r] * dx_stride;
    store(to, load(to) + sums[r][0]);
    store(to + lanes<T>, load(to + lanes<T>) + sums[r][1]);
  }
}

/// to[r] = sum over `count` pairs of dy[outputs][r] x[inputs], a panel of channels.
template <class T, int R>
void outer_product(std::int64_t count, const std::int64_t* outputs, const T* dy, std::int64_t dy_stride,
                   const std::int64_t* inputs, const T* x, std::int64_t x_stride, T* to, std::int64_t ld) {
  Vector<T> sums[R][2] = {};
  for (std::int64_t i = 0; i < count; ++i) {
    const T *gradient = dy + outputs[i] * dy_stride, *from = x + inputs[i] * x_stride;
    const Vector<T> low = load(from), high = load(from + lanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      sums[r][0] += gradient[r] * low;
      sums[r][1] += gradient[r] * high;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    store(to + r * ld, sums[r][0]);
    store(to + r * ld + lanes<T>, sums[r][1]);
  }
}

}  // namespace

template <class T>
void FewInputGradient<T>::run(const Context& context, const Array& dx, const Array& dy, const Array& weight) const {
  pairs_.find(shape_);
  std::fill_n(dx.as<T>(), dx.size(), T(0));
  // Channels that a thread owns: whole panels, and few parts, because what it reads of the weights is to be contiguous.
  const std::int64_t panels = shape_.in_channels / micro_cols<T>;
  const std::int64_t part = (panels + context.threads - 1) / context.threads * micro_cols<T>;
  parallel_range(context, shape_.in_channels, part, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t channels = shape_.in_channels, columns = shape_.out_channels, row = pairs_.taps * channels;
    for (std::int64_t o = 0; o < columns; o += scatter_depth)
      for (std::int64_t tap = 0; tap < pairs_.taps; ++tap) {
        const std::int64_t pairs = pairs_.count(tap), most = pairs > 0 ? part_of(pairs, scatter_rows) : 1;
        for (std::int64_t c = begin; c < end; c += micro_cols<T>)
          for (std::int64_t first = 0; first < pairs; first += most)
            with_count<scatter_rows>(std::min(most, pairs - first), [&](auto rows) {
              scatter<T, rows>(std::min(scatter_depth, columns - o), pairs_.outputs(tap) + first, dy.as<const T>() + o,
                               columns, weight.as<const T>() + o * row + tap * channels + c, row,
                               pairs_.inputs(tap) + first, dx.as<T>() + c, channels);
            });
      }
  });
}

template <class T>
void FewWeightGradient<T>::run(const Context& context, const Array& dweight, const Array& x, const Array& dy) const {
  pairs_.find(shape_);
  const std::int64_t channels = shape_.in_channels, columns = shape_.out_channels, row = pairs_.taps * channels;
  parallel_range(context, columns, micro_rows, [&](std::int64_t begin, std::int64_t end) {
    with_count<micro_rows>(end - begin, [&](auto rows) {
      for (std::int64_t tap = 0; tap < pairs_.taps; ++tap)
        for (std::int64_t c = 0; c < channels; c += micro_cols<T>)
          outer_product<T, rows>(pairs_.count(tap), pairs_.outputs(tap), dy.as<const T>() + begin, columns,
                                 pairs_.inputs(tap), x.as<const T>() + c, channels,
                                 dweight.as<T>() + begin * row + tap * channels + c, row);
    });
  });
}

template class FewForward<float>;
template class FewForward<double>;
template class FewInputGradient<float>;
template class FewInputGradient<double>;
template class FewWeightGradient<float>;
template class FewWeightGradient<double>;

}  // namespace imgrec::cpu
