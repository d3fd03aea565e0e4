// The forward pass and backward_input of convolutions whose groups have few channels: conv2d_grouped.h.
//
// A task is a strip of result rows for a block of channels. It copies each source row shortly before the first result
// row that reads it, into the place of one that is no longer needed. A block of neighbouring results stays in registers
// while the taps pass; where the usual numbers of taps and steps allow it, each pixel of a row is read once for all of
// the block's results and taps. Results go from registers to the image they belong to.
#include "cpu/conv2d_grouped.h"

#include <bit>

#include "cpu/activation.h"

namespace imgrec::cpu {

GroupedAxis::GroupedAxis(const Conv2dAxis& axis, Conv2dPass pass)
    : phases(pass == Conv2dPass::backward_input ? std::min(axis.stride, axis.input) : 1),
      step(pass == Conv2dPass::backward_input ? 1 : axis.stride),
      outputs(0),
      low(0),
      high(0) {
  bool first = true;
  for (std::int64_t phase = 0; phase < phases; ++phase) {
    const Axis one = grouped_phase(axis, pass, phase).axis;
    outputs = std::max(outputs, one.outputs);
    if (one.taps == 0) continue;
    const std::int64_t last = one.origin + (one.taps - 1) * one.advance;
    low = first ? std::min(one.origin, last) : std::min({low, one.origin, last});
    high = first ? std::max(one.origin, last) : std::max({high, one.origin, last});
    first = false;
  }
}

PhaseAxis grouped_phase(const Conv2dAxis& axis, Conv2dPass pass, std::int64_t phase) {
  if (pass == Conv2dPass::backward_input) return backward_axis(axis, phase);
  return {forward_axis(axis), 0, 0, 1};
}

namespace {

constexpr int block_columns = vector_registers == 32 ? 8 : 4;
constexpr std::int64_t copied_bytes = 128 << 10;  // that a thread's copied rows are to take, if one vector's take fewer

}  // namespace

template <class T>
GroupedLayout<T>::GroupedLayout(const Conv2dShape& shape, Conv2dPass pass) {
  const bool backward = pass == Conv2dPass::backward_input;
  const GroupedAxis vertical(shape.height, pass), horizontal(shape.width, pass);
  channels = backward ? shape.in_channels : shape.out_channels;
  source_channels = backward ? shape.out_channels : shape.in_channels;
  columns = channels / shape.groups;
  depth = source_channels / shape.groups;
  height = backward ? shape.height.output() : shape.height.input;
  width = backward ? shape.width.output() : shape.width.input;
  rows = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(vertical.reach())));
  pixels = (round_up(horizontal.outputs, block_columns) - 1) * horizontal.step + horizontal.reach();
  low = horizontal.low;
  const std::int64_t bytes = rows * depth * plane() * static_cast<std::int64_t>(sizeof(T));
  vectors = std::clamp<std::int64_t>(copied_bytes / std::max<std::int64_t>(bytes, 1), 1, 8);
}

namespace {

/// sums[i] += taps[t] * pixel (i step + t) of a row.
template <class T, int taps, int step, int count>
[[gnu::always_inline]] inline void slide(const T* pixels, const T* weights, std::int64_t weight_stride,
                                         Vector<T> (&sums)[count]) {
  Vector<T> tap[taps];
#pragma GCC unroll 8
  for (int t = 0; t < taps; ++t) tap[t] = load(weights + t * weight_stride);
#pragma GCC unroll 32
  for (int q = 0; q < (count - 1) * step + taps; ++q) {
    const Vector<T> pixel = load(pixels + q * lanes<T>);
#pragma GCC unroll 8
    for (int t = 0; t < taps; ++t)
      if (q >= t && (q - t) % step == 0 && (q - t) / step < count) sums[(q - t) / step] += tap[t] * pixel;
  }
}

/// The same for any taps, `advance` pixels apart.
template <class T, int count>
[[gnu::always_inline]] inline void add_taps(const T* pixels, const Axis& width, const T* weights,
                                            std::int64_t weight_stride, Vector<T> (&sums)[count]) {
  for (std::int64_t t = 0; t < width.taps; ++t, pixels += width.advance * lanes<T>, weights += weight_stride) {
    const Vector<T> tap = load(weights);
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) sums[i] += tap * load(pixels + i * width.step * lanes<T>);
  }
}

/// Adds a row of taps to `count` neighbouring results, the first of which meets the first tap at `pixels`. taps is 0
/// where add_taps serves.
template <class T, int taps, int step, int count>
[[gnu::always_inline]] inline void add_row(const T* pixels, const Axis& width, const T* weights,
                                           std::int64_t weight_stride, Vector<T> (&sums)[count]) {
  if constexpr (taps == 0) {
    add_taps(pixels, width, weights, weight_stride, sums);
  } else {
    const bool reversed = width.advance < 0;  // gradients meet the taps in reverse
    slide<T, taps, step>(reversed ? pixels - (taps - 1) * lanes<T> : pixels,
                         reversed ? weights + (taps - 1) * weight_stride : weights,
                         reversed ? -weight_stride : weight_stride, sums);
  }
}

/// Calls body with the number of taps and the step that have a kernel of their own, or zeros.
template <class Body>
void for_kind(const Axis& width, Body&& body) {
  const bool dense = width.advance == 1 || width.advance == -1;
  const auto is = [&](std::int64_t taps, std::int64_t step) {
    return dense && width.taps == taps && width.step == step;
  };
  if (is(3, 1)) return body(std::integral_constant<int, 3>{}, std::integral_constant<int, 1>{});
  if (is(3, 2)) return body(std::integral_constant<int, 3>{}, std::integral_constant<int, 2>{});
  if (is(5, 1)) return body(std::integral_constant<int, 5>{}, std::integral_constant<int, 1>{});
  body(std::integral_constant<int, 0>{}, std::integral_constant<int, 0>{});
}

/// One kernel for all activations, whose code is large.
template <class T>
[[gnu::noinline]] void activate_all(Vector<T>* values, int count, Activation activation) {
  for (int i = 0; i < count; ++i) values[i] = activate<T>(values[i], activation);
}

}  // namespace

/// Rows of the result under way, for one block of channels.
template <class T>
template <class S>
struct GroupedProduct<T>::Strip {
  const GroupedProduct& product;
  const T* weights;
  const Destination& to;
  GroupedRows<T, S> rows;
  std::int64_t image;

  void write_row(std::int64_t row) {
    const GroupedAxis vertical(product.shape_.height, product.pass_), horizontal(product.shape_.width, product.pass_);
    const PhaseAxis height = grouped_phase(product.shape_.height, product.pass_, row % vertical.phases);
    const std::int64_t output = row / vertical.phases;
    rows.provide(std::min(output * vertical.step + vertical.high, height.axis.source - 1));
    for (std::int64_t phase = 0; phase < horizontal.phases; ++phase) {
      const PhaseAxis width = grouped_phase(product.shape_.width, product.pass_, phase);
      // Columns outermost: what is written is contiguous.
      for_kind(width.axis, [&](auto taps, auto step) {
        for (std::int64_t column = 0; column < width.axis.outputs; column += block_columns)
          for (std::int64_t vector = 0; vector < rows.vectors(); ++vector)
            if (column + block_columns / 2 < width.axis.outputs)
              write_block<block_columns, taps, step>(height, output, width, column, vector, horizontal.phases, row);
            else
              write_block<block_columns / 2, taps, step>(height, output, width, column, vector, horizontal.phases, row);
      });
    }
  }

  template <int count, int taps, int step>
  void write_block(const PhaseAxis& height, std::int64_t output, const PhaseAxis& width, std::int64_t column,
                   std::int64_t vector, std::int64_t column_step, std::int64_t row) const {
    const GroupedLayout<T>& layout = product.layout_;
    const std::int64_t channel = rows.channel(vector), tap_size = layout.depth * layout.padded_channels();
    const int some = rows.lanes_of(vector);
    const auto [first, last] = height.axis.taps_inside(output);
    const std::int64_t offset = (width.axis.position(column, 0) - layout.low) * lanes<T>;
    const std::int64_t pixel = (image * product.rows_ + row) * product.columns_ + width.phase + column * column_step;
    if (column_step == 1 || width.phase == 0)
      rows.fetch(vector, width.axis.position(column, 0), count * width.axis.step);
    Vector<T> sums[count];
    const Vector<T> start = to.bias ? load_wide(to.bias.as<const S>() + channel, some) : Vector<T>{};
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) sums[i] = start;
    for (std::int64_t h = first; h < last; ++h) {
      const std::int64_t tap = (height.first_tap + h * height.tap_step) * product.shape_.width.kernel + width.first_tap;
      for (std::int64_t j = 0; j < layout.depth; ++j)
        add_row<T, taps, step>(rows.row(vector, height.axis.position(output, h), j) + offset, width.axis,
                               weights + tap * tap_size + j * layout.padded_channels() + channel,
                               width.tap_step * tap_size, sums);
    }
    finish<count>(sums, static_cast<int>(std::min<std::int64_t>(count, width.axis.outputs - column)),
                  pixel * layout.channels + channel, column_step * layout.channels, some);
  }

  /// Writes the first `columns` results to elements `at`, at + step, ...
  template <int count>
  void finish(const Vector<T> (&sums)[count], int columns, std::int64_t at, std::int64_t step, int some) const {
    if (to.pre_activation) store_all<count>(to.pre_activation.as<S>() + at, step, sums, columns, some);
    if (to.activation == Activation::none) return store_all<count>(to.result.as<S>() + at, step, sums, columns, some);
    Vector<T> values[count];  // a copy: the address of the sums would keep them out of registers
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) values[i] = sums[i];
    activate_all<T>(values, count, to.activation);
    store_all<count>(to.result.as<S>() + at, step, values, columns, some);
  }

  template <int count>
  static void store_all(S* at, std::int64_t step, const Vector<T> (&values)[count], int columns, int some) {
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i)
      if (i < columns) store_narrow(at + i * step, values[i], some);
  }
};

template <class T>
GroupedProduct<T>::GroupedProduct(const Context& context, const Conv2dShape& shape, Conv2dPass pass,
                                  Workspace& workspace)
    : shape_(shape),
      pass_(pass),
      layout_(shape, pass),
      rows_(pass == Conv2dPass::backward_input ? shape.height.input : shape.height.output()),
      columns_(pass == Conv2dPass::backward_input ? shape.width.input : shape.width.output()),
      memory_(workspace.take<T>(context.threads * layout_.size())) {
  // Short strips copy more rows twice: there are more than one of an image only where threads would have nothing to do.
  const std::int64_t wanted = context.threads > 1 ? 8 * context.threads : 1;
  const std::int64_t tasks = std::max<std::int64_t>(1, shape.batch * layout_.blocks());
  const std::int64_t strips = std::clamp<std::int64_t>(wanted / tasks, 1, std::max<std::int64_t>(1, rows_ / 8));
  strip_rows_ = std::max<std::int64_t>(1, (rows_ + strips - 1) / strips);
}

template <class T>
void GroupedProduct<T>::run(const Context& context, const Array& source, const T* weights,
                            const Destination& to) const {
  const std::int64_t strips = (rows_ + strip_rows_ - 1) / strip_rows_, blocks = layout_.blocks();
  const std::int64_t image_size = layout_.height * layout_.width * layout_.source_channels;
  const GroupedAxis vertical(shape_.height, pass_);
  for_floating(source.dtype, [&](auto tag) {
    using S = decltype(tag);
    if constexpr (std::is_same_v<Compute<S>, T>)
      parallel_tasks(context, shape_.batch * strips * blocks, [&](std::int64_t task, int worker) {
        const std::int64_t image = task / blocks / strips, first = task / blocks % strips * strip_rows_;
        Strip<S> strip{*this, weights, to, {layout_, task % blocks, memory_ + worker * layout_.size()}, image};
        strip.rows.begin(source.as<const S>() + image * image_size,
                         first / vertical.phases * vertical.step + vertical.low);
        for (std::int64_t row = first; row < std::min(rows_, first + strip_rows_); ++row) strip.write_row(row);
      });
  });
}

template <class T>
std::int64_t GroupedProduct<T>::packed_size(const Conv2dShape& shape, Conv2dPass pass) {
  const GroupedLayout<T> layout(shape, pass);
  return shape.height.kernel * shape.width.kernel * layout.depth * layout.padded_channels();
}

template <class T>
void GroupedProduct<T>::pack(T* packed, const T* weight, const Conv2dShape& shape, Conv2dPass pass) {
  const GroupedLayout<T> layout(shape, pass);
  const std::int64_t taps = shape.height.kernel * shape.width.kernel;
  std::fill_n(packed, packed_size(shape, pass), T(0));
  for (std::int64_t c = 0; c < layout.channels; ++c) {
    // Forward, a filter is of channel c; backwards, channel c is one of the inputs of its group's filters.
    const bool forward = pass == Conv2dPass::forward;
    const std::int64_t group = c / layout.columns, inputs = forward ? layout.depth : layout.columns;
    for (std::int64_t j = 0; j < layout.depth; ++j) {
      const std::int64_t filter = forward ? c : group * layout.depth + j, input = forward ? j : c % layout.columns;
      for (std::int64_t tap = 0; tap < taps; ++tap)
        packed[(tap * layout.depth + j) * layout.padded_channels() + c] =
            weight[(filter * taps + tap) * inputs + input];
    }
  }
}

template struct GroupedLayout<float>;
template struct GroupedLayout<double>;
template class GroupedProduct<float>;
template class GroupedProduct<double>;

}  // namespace imgrec::cpu
