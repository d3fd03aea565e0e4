// Depthwise convolution: vectors run over channels, and a block of output columns stays in registers while the taps
// pass. Where the usual numbers of taps and steps allow it, each pixel of an input row is read once for all of a
// block's outputs and taps. Borders cost no multiplies: rows of taps outside the image are skipped, and columns near
// the border take their own range of taps.
#include "cpu/conv2d.h"

namespace imgrec::cpu {
namespace {

constexpr int block_columns = vector_registers == 32 ? 8 : 4;
constexpr std::int64_t tile_columns = 32;

/// sums[j] += taps[t] * pixel (j step + t) of a row, pixels and taps at their own distances.
template <class T, int taps, int step>
inline void slide(const T* pixels, std::int64_t pixel_stride, const T* weights, std::int64_t weight_stride,
                  Vector<T> (&sums)[block_columns]) {
  Vector<T> tap[taps];
#pragma GCC unroll 8
  for (int t = 0; t < taps; ++t) tap[t] = load(weights + t * weight_stride);
#pragma GCC unroll 32
  for (int q = 0; q < (block_columns - 1) * step + taps; ++q) {
    const Vector<T> pixel = load(pixels + q * pixel_stride);
#pragma GCC unroll 8
    for (int t = 0; t < taps; ++t)
      if (q >= t && (q - t) % step == 0 && (q - t) / step < block_columns) sums[(q - t) / step] += tap[t] * pixel;
  }
}

/// Calls body(c) for vectors of channels from c on; the last of them may overlap the one before.
template <class T, class Body>
inline void for_channels(std::int64_t channels, Body&& body) {
  std::int64_t c = 0;
  for (; c + lanes<T> <= channels; c += lanes<T>) body(c);
  if (c < channels) body(channels - lanes<T>);
}

/// One output row under way.
template <class T>
struct Row {
  const Patches<T>& patches;
  const T* weights;
  std::int64_t image, row;
  std::pair<std::int64_t, std::int64_t> row_taps;
  const T* bias;
  std::int64_t biases;

  Vector<T> start(std::int64_t channel) const {
    const std::int64_t left = bias ? std::clamp<std::int64_t>(biases - channel, 0, lanes<T>) : 0;
    return left > 0 ? load_first(bias + channel, static_cast<int>(left)) : Vector<T>{};
  }

  /// block_columns neighbouring outputs from `column` on, at one vector of channels; all their taps lie inside a row.
  template <int taps, int step>
  void sum_window(std::int64_t column, std::int64_t channel, T* to) const {
    const Axis& width = patches.width;
    const std::int64_t channels = patches.run;
    // Gradients meet the taps in reverse: then the window begins at the last one.
    const bool reversed = width.advance < 0;
    const std::int64_t first = width.position(column, reversed ? taps - 1 : 0) * patches.pixel_stride + channel;
    Vector<T> sums[block_columns];
#pragma GCC unroll 8
    for (int j = 0; j < block_columns; ++j) sums[j] = start(channel);
    for (std::int64_t h = row_taps.first; h < row_taps.second; ++h)
      slide<T, taps, step>(patches.row(image, patches.height.position(row, h)) + first, patches.pixel_stride,
                           weights + (h * taps + (reversed ? taps - 1 : 0)) * channels + channel,
                           reversed ? -channels : channels, sums);
#pragma GCC unroll 8
    for (int j = 0; j < block_columns; ++j) store(to + j * channels, sums[j]);
  }

  /// `count` neighbouring outputs over the column taps [begin, end).
  template <int count>
  void sum(std::int64_t column, std::int64_t begin, std::int64_t end, std::int64_t channel, T* to) const {
    const Axis& width = patches.width;
    const std::int64_t channels = patches.run, step = width.step * patches.pixel_stride;
    Vector<T> sums[count];
#pragma GCC unroll 8
    for (int j = 0; j < count; ++j) sums[j] = start(channel);
    for (std::int64_t h = row_taps.first; h < row_taps.second; ++h) {
      const T* from = patches.row(image, patches.height.position(row, h)) + channel;
      const T* weight = weights + h * width.taps * channels + channel;
      for (std::int64_t w = begin; w < end; ++w) {
        const Vector<T> tap = load(weight + w * channels);
        const T* pixel = from + width.position(column, w) * patches.pixel_stride;
#pragma GCC unroll 8
        for (int j = 0; j < count; ++j) sums[j] += tap * load(pixel + j * step);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < count; ++j) store(to + j * channels, sums[j]);
  }

  void sum_block(std::int64_t column, T* to) const {
    const Axis& width = patches.width;
    const bool dense = width.advance == 1 || width.advance == -1;
    const std::int64_t channels = patches.run;
    if (dense && width.taps == 3 && width.step == 1)
      return for_channels<T>(channels, [&](std::int64_t c) { sum_window<3, 1>(column, c, to + c); });
    if (dense && width.taps == 3 && width.step == 2)
      return for_channels<T>(channels, [&](std::int64_t c) { sum_window<3, 2>(column, c, to + c); });
    if (dense && width.taps == 5 && width.step == 1)
      return for_channels<T>(channels, [&](std::int64_t c) { sum_window<5, 1>(column, c, to + c); });
    if (dense && width.taps == 2 && width.step == 1)
      return for_channels<T>(channels, [&](std::int64_t c) { sum_window<2, 1>(column, c, to + c); });
    for_channels<T>(channels, [&](std::int64_t c) { sum<block_columns>(column, 0, width.taps, c, to + c); });
  }

  /// Outputs [first, last) at all channels; columns in [inner_begin, inner_end) have all their taps inside the image.
  /// The last block of these may overlap the one before.
  void sum_columns(std::int64_t first, std::int64_t last, std::int64_t inner_begin, std::int64_t inner_end,
                   T* to) const {
    const std::int64_t inner_last = std::min(inner_end, last) - block_columns;
    const bool blocks = inner_last >= std::max(first, inner_begin);
    for (std::int64_t j = first; j < last;) {
      if (blocks && j >= inner_begin && j < inner_last + block_columns) {
        j = std::min(j, inner_last);
        sum_block(j, to + (j - first) * patches.run);
        j += block_columns;
      } else {
        T* at = to + (j - first) * patches.run;
        const auto [begin, end] = patches.width.taps_inside(j);
        for_channels<T>(patches.run, [&](std::int64_t c) { sum<1>(j, begin, end, c, at + c); });
        ++j;
      }
    }
  }
};

}  // namespace

template <class T>
DepthwiseScratch<T>::DepthwiseScratch(const Context& context, std::int64_t channels, Workspace& workspace)
    : tiles(workspace.take<T>(context.threads * tile_columns * channels)) {}

template <class T>
void multiply_depthwise(const Context& context, const Patches<T>& patches, const T* weights,
                        const DepthwiseScratch<T>& scratch, const Output<T>& output) {
  const Axis &height = patches.height, &width = patches.width;
  std::int64_t inner_begin = 0, inner_end = width.outputs;
  for (std::int64_t tap = 0; tap < width.taps; ++tap) {
    const auto [begin, end] = width.outputs_inside(tap);
    inner_begin = std::max(inner_begin, begin);
    inner_end = std::min(inner_end, end);
  }
  const bool in_place = output.in_place();
  parallel_tasks(context, patches.batch * height.outputs, [&](std::int64_t task, int worker) {
    const std::int64_t i = task % height.outputs, pixel = task * width.outputs;
    const Row<T> row{patches, weights, task / height.outputs, i, height.taps_inside(i), output.bias, output.channels};
    if (in_place) {
      row.sum_columns(0, width.outputs, inner_begin, inner_end, output.place(pixel, 0));
      return output.activate(pixel, width.outputs, 0, output.channels);
    }
    T* tile = scratch.tiles + worker * tile_columns * patches.run;
    for (std::int64_t first = 0; first < width.outputs; first += tile_columns) {
      const std::int64_t last = std::min(width.outputs, first + tile_columns);
      row.sum_columns(first, last, inner_begin, inner_end, tile);
      output.write(tile, patches.run, pixel + first, last - first, 0, output.channels, patches);
    }
  });
}

template <class T>
void pack_depthwise_weights(T* packed, const T* weight, std::int64_t channels, const Conv2dShape& shape,
                            const PhaseAxis& height, const PhaseAxis& width) {
  for (std::int64_t h = 0; h < height.axis.taps; ++h)
    for (std::int64_t w = 0; w < width.axis.taps; ++w, packed += channels) {
      const std::int64_t row = height.first_tap + h * height.tap_step, column = width.first_tap + w * width.tap_step;
      for (std::int64_t c = 0; c < shape.out_channels; ++c)
        packed[c] = weight[(c * shape.height.kernel + row) * shape.width.kernel + column];
      std::fill(packed + shape.out_channels, packed + channels, T(0));
    }
}

template <class T>
DepthwiseWeightGradient<T>::DepthwiseWeightGradient(const Patches<T>& patches, const Conv2dShape& shape,
                                                    Workspace& workspace)
    : channels_(round_up(shape.out_channels, lanes<T>)),
      taps_(patches.taps()),
      chunks_(shape.batch * shape.height.output(), 1, 32),
      partial_(workspace.take<T>(chunks_.count * taps_ * channels_)) {}

namespace {

/// sums[channel] += dy * x over `count` pixels, `dy_step` and `x_step` elements apart; V vectors of channels, the last
/// of which has `some`.
template <class T, int V>
void sum_products(std::int64_t count, const T* dy, std::int64_t dy_step, const T* x, std::int64_t x_step, int some,
                  T* sums) {
  constexpr int last = (V - 1) * lanes<T>;
  Vector<T> total[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) total[v] = load(sums + v * lanes<T>);
  for (std::int64_t j = 0; j < count; ++j, dy += dy_step, x += x_step) {
#pragma GCC unroll 4
    for (int v = 0; v < V - 1; ++v) total[v] += load(dy + v * lanes<T>) * load(x + v * lanes<T>);
    total[V - 1] += load_first(dy + last, some) * load_first(x + last, some);
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) store(sums + v * lanes<T>, total[v]);
}

/// Adds one output row's products to the sums of all taps.
template <class T>
void sum_row(const Patches<T>& patches, const Patches<T>& dy, std::int64_t image, std::int64_t row, T* sums) {
  const Axis &height = patches.height, &width = patches.width;
  const std::int64_t channels = patches.run, step = width.step * patches.pixel_stride;
  const auto [first_tap, last_tap] = height.taps_inside(row);
  for (std::int64_t h = first_tap; h < last_tap; ++h)
    for (std::int64_t w = 0; w < width.taps; ++w) {
      const auto [begin, end] = width.outputs_inside(w);
      if (begin == end) continue;
      const T* from = patches.row(image, height.position(row, h)) + width.position(begin, w) * patches.pixel_stride;
      const T* gradient = dy.row(image, row) + begin * dy.pixel_stride;
      T* to = sums + (h * width.taps + w) * round_up(channels, lanes<T>);
      std::int64_t c = 0;
      for (; c + 4 * lanes<T> <= channels; c += 4 * lanes<T>)
        sum_products<T, 4>(end - begin, gradient + c, dy.pixel_stride, from + c, step, lanes<T>, to + c);
      for (; c < channels; c += lanes<T>)
        sum_products<T, 1>(end - begin, gradient + c, dy.pixel_stride, from + c, step,
                           static_cast<int>(std::min<std::int64_t>(lanes<T>, channels - c)), to + c);
    }
}

}  // namespace

template <class T>
void DepthwiseWeightGradient<T>::run(const Context& context, const Array& dweight, const Patches<T>& patches,
                                     const Patches<T>& dy) const {
  const std::int64_t size = taps_ * channels_, rows = patches.height.outputs;
  parallel_tasks(context, chunks_.count, [&](std::int64_t chunk, int) {
    T* sums = partial_ + chunk * size;
    std::fill(sums, sums + size, T(0));
    const std::int64_t last = std::min(chunks_.total, (chunk + 1) * chunks_.length);
    for (std::int64_t i = chunk * chunks_.length; i < last; ++i) sum_row(patches, dy, i / rows, i % rows, sums);
  });
  combine_chunks(partial_, chunks_.count, size, 0, size);
  for (std::int64_t c = 0; c < dweight.shape[0]; ++c)
    for (std::int64_t tap = 0; tap < taps_; ++tap)
      narrow_all(dweight.data, dweight.dtype, c * taps_ + tap, partial_ + tap * channels_ + c, 1);
}

#define IMGREC_INSTANTIATE(T)                                                                               \
  template struct DepthwiseScratch<T>;                                                                      \
  template class DepthwiseWeightGradient<T>;                                                                \
  template void multiply_depthwise(const Context&, const Patches<T>&, const T*, const DepthwiseScratch<T>&, \
                                   const Output<T>&);                                                       \
  template void pack_depthwise_weights(T*, const T*, std::int64_t, const Conv2dShape&, const PhaseAxis&,    \
                                       const PhaseAxis&);
IMGREC_INSTANTIATE(float)
IMGREC_INSTANTIATE(double)
#undef IMGREC_INSTANTIATE

}  // namespace imgrec::cpu
