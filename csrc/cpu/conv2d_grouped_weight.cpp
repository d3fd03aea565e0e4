// The gradient of the weights of convolutions whose groups have few channels: conv2d_grouped.h.
//
//     dweight[t, j, c] = sum over pixels p of  x[p at t, c / columns depth + j]  dy[p, c]
//
// Rows of x are copied as for the forward pass, and a row of dy beside them. The sums of up to nine taps stay in
// registers along a row. Rows are cut into chunks by shape alone; a task is a chunk of rows for a block of channels.
#include <array>

#include "cpu/conv2d_grouped.h"

namespace imgrec::cpu {
namespace {

constexpr int most_taps = 9;  // at once

/// sums[t] += dy x[t] over `count` pixels, those of x `step` elements apart.
template <class T, int taps>
void correlate(std::int64_t count, const T* dy, const T* const* x, std::int64_t step, T* const* sums) {
  Vector<T> total[taps] = {};
  const T* from[taps];
#pragma GCC unroll 9
  for (int t = 0; t < taps; ++t) from[t] = x[t];
  for (std::int64_t pixel = 0, at = 0; pixel < count; ++pixel, at += step, dy += lanes<T>) {
    const Vector<T> gradient = load(dy);
#pragma GCC unroll 9
    for (int t = 0; t < taps; ++t) total[t] += gradient * load(from[t] + at);
  }
#pragma GCC unroll 9
  for (int t = 0; t < taps; ++t) store(sums[t], load(sums[t]) + total[t]);
}

/// correlate for 1 ... most_taps taps.
template <class T>
constexpr auto correlate_kernels = []<int... t>(std::integer_sequence<int, t...>) {
  return std::array{correlate<T, t + 1>...};
}(std::make_integer_sequence<int, most_taps>{});

}  // namespace

template <class T>
GroupedWeightGradient<T>::GroupedWeightGradient(const Context& context, const Conv2dShape& shape, Workspace& workspace)
    : shape_(shape),
      layout_(shape, Conv2dPass::backward_weight),
      chunks_(shape.batch * shape.height.output(), 256 / std::max<std::int64_t>(shape.width.output(), 1), 32),
      memory_(workspace.take<T>(context.threads * (layout_.size() + dy_size()))),
      partial_(workspace.take<T>(chunks_.count * sums_size())) {}

template <class T>
template <class S>
void GroupedWeightGradient<T>::sum_chunk(const Array& x, const Array& dy, std::int64_t chunk, std::int64_t block,
                                         T* memory) const {
  const std::int64_t height = shape_.height.output(), width = shape_.width.output();
  const GroupedAxis vertical(shape_.height, Conv2dPass::backward_weight);
  GroupedRows<T, S> rows(layout_, block, memory);
  T* copied = memory + layout_.size();
  const std::int64_t begin = chunk * chunks_.length, end = std::min(chunks_.total, begin + chunks_.length);
  for (std::int64_t number = begin; number < end; ++number) {
    const std::int64_t image = number / height, row = number % height, low = row * vertical.step + vertical.low;
    if (number == begin || row == 0)
      rows.begin(x.as<const S>() + image * layout_.height * layout_.width * layout_.source_channels, low);
    rows.provide(std::min(low + vertical.reach(), layout_.height) - 1);
    for (std::int64_t vector = 0; vector < rows.vectors(); ++vector) {
      const std::int64_t channel = rows.channel(vector);
      const S* from = dy.as<const S>() + number * width * layout_.channels + channel;
      for (std::int64_t i = 0; i < width; ++i)
        store(copied + i * lanes<T>, load_wide(from + i * layout_.channels, rows.lanes_of(vector)));
      sum_row(rows, vector, row, copied, partial_ + chunk * sums_size() + channel);
    }
  }
}

/// Adds one row of dy, copied, to the sums of all taps of a vector of channels.
template <class T>
template <class S>
void GroupedWeightGradient<T>::sum_row(const GroupedRows<T, S>& rows, std::int64_t vector, std::int64_t row,
                                       const T* dy, T* sums) const {
  const Axis height = forward_axis(shape_.height), width = forward_axis(shape_.width);
  const auto [first, last] = height.taps_inside(row);
  const T* from[most_taps];
  T* to[most_taps];
  std::size_t count = 0;
  const auto flush = [&] {
    if (count > 0) correlate_kernels<T>[count - 1](width.outputs, dy, from, width.step* lanes<T>, to);
    count = 0;
  };
  for (std::int64_t h = first; h < last; ++h)
    for (std::int64_t w = 0; w < width.taps; ++w)
      for (std::int64_t j = 0; j < layout_.depth; ++j) {
        from[count] = rows.row(vector, height.position(row, h), j) + w * width.advance * lanes<T>;
        to[count] = sums + ((h * width.taps + w) * layout_.depth + j) * layout_.padded_channels();
        if (++count == most_taps) flush();
      }
  flush();
}

template <class T>
void GroupedWeightGradient<T>::run(const Context& context, const Array& dweight, const Array& x,
                                   const Array& dy) const {
  const std::int64_t blocks = layout_.blocks(), size = sums_size();
  std::fill_n(partial_, chunks_.count * size, T(0));
  for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    if constexpr (std::is_same_v<Compute<S>, T>) {
      parallel_tasks(context, chunks_.count * blocks, [&](std::int64_t task, int worker) {
        sum_chunk<S>(x, dy, task / blocks, task % blocks, memory_ + worker * (layout_.size() + dy_size()));
      });
      parallel_range(context, size, 4096, [&](std::int64_t begin, std::int64_t end) {
        combine_chunks(partial_, chunks_.count, size, begin, end);
      });
      write(dweight.as<S>());
    }
  });
}

template <class T>
template <class S>
void GroupedWeightGradient<T>::write(S* dweight) const {
  const std::int64_t parts = taps() * layout_.depth;
  for (std::int64_t tap = 0; tap < taps(); ++tap)
    for (std::int64_t j = 0; j < layout_.depth; ++j)
      for (std::int64_t c = 0; c < layout_.channels; ++c)
        dweight[c * parts + tap * layout_.depth + j] =
            narrow<S>(partial_[(tap * layout_.depth + j) * layout_.padded_channels() + c]);
}

template class GroupedWeightGradient<float>;
template class GroupedWeightGradient<double>;

}  // namespace imgrec::cpu
