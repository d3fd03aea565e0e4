// Convolutions whose groups have few channels, depthwise ones among them. Vectors run over the channels of the result,
// across the groups:
//
//     result[p, c] = sum over taps t, j < depth of  source[p at t, c / columns depth + j]  weight[t, j, c]
//
// with `columns` channels of the result in a group and `depth` of the source: 1 in a depthwise convolution. Rows of the
// source are first copied to where a pixel's vector j holds the channels that a vector of the result meets, widened,
// with zeros on both sides of the image: so each element is taken apart once for all the taps, the kernels know no
// borders, and what they read lies close together in the first-level cache.
#pragma once

#include "cpu/conv2d.h"
#include "cpu/vector_io.h"

namespace imgrec::cpu {

/// Whether these kernels serve a pass: fewer result channels in a group than a vector would hold, or a single source
/// channel, in which all the others' vectors are mostly idle.
template <class T>
bool grouped_serves(const Conv2dShape& shape, Conv2dPass pass) {
  const bool backward = pass == Conv2dPass::backward_input;
  const std::int64_t depth = backward ? shape.group_out() : shape.group_in();
  const std::int64_t columns = backward ? shape.group_in() : shape.group_out();
  return shape.groups > 1 && !depthwise_serves<T>(shape) &&
         (depth == 1 || (columns < lanes<T> && depth <= 2 * lanes<T>));
}

/// Along one axis, all phases of a product together: forward has one, backward_input one for each step of the stride.
/// Output m of any of them reads positions m step + low ... m step + high.
struct GroupedAxis {
  std::int64_t phases, step, outputs, low, high;  // outputs: of the longest phase

  GroupedAxis(const Conv2dAxis& axis, Conv2dPass pass);
  std::int64_t reach() const { return high - low + 1; }
};

/// The outputs phase, phase + phases, ... of a pass.
PhaseAxis grouped_phase(const Conv2dAxis& axis, Conv2dPass pass, std::int64_t phase);

/// How channels are counted, and how copied rows lie in memory: [vector][row][j][column][lane].
template <class T>
struct GroupedLayout {
  std::int64_t channels, source_channels, columns, depth;  // the first two of all groups together
  std::int64_t height, width;                              // of the source
  std::int64_t rows, pixels, low;                          // that are kept of it, a power of two, and the first column
  std::int64_t vectors;                                    // of the result, in a block

  GroupedLayout(const Conv2dShape& shape, Conv2dPass pass);
  std::int64_t padded_channels() const { return round_up(channels, lanes<T>); }
  std::int64_t blocks() const { return (channels + vectors * lanes<T> - 1) / (vectors * lanes<T>); }
  std::int64_t plane() const { return pixels * lanes<T>; }
  std::int64_t size() const { return vectors * rows * depth * plane(); }
};

/// The copied rows of one image for one block of vectors.
template <class T, class S>
class GroupedRows {
 public:
  GroupedRows(const GroupedLayout<T>& layout, std::int64_t block, T* memory)
      : layout_(layout), channel_(block * layout.vectors * lanes<T>), memory_(memory) {
    std::fill_n(memory, layout.size(), T(0));
  }

  std::int64_t vectors() const {
    return std::min(layout_.vectors, (layout_.channels - channel_ + lanes<T> - 1) / lanes<T>);
  }
  std::int64_t channel(std::int64_t vector) const { return channel_ + vector * lanes<T>; }
  /// How many channels a vector has.
  int lanes_of(std::int64_t vector) const {
    return static_cast<int>(std::min<std::int64_t>(lanes<T>, layout_.channels - channel(vector)));
  }

  /// From now on rows of this image are provided, the first of them `row`.
  void begin(const S* image, std::int64_t row) {
    image_ = image;
    next_ = std::max<std::int64_t>(row, 0);
  }
  /// Copies the rows up to `last` that have not been. As many as the layout has rows can be read at a time.
  void provide(std::int64_t last) {
    const std::int64_t end = std::min(layout_.low + layout_.pixels, layout_.width);
    for (; next_ <= last; ++next_)  // some pixels at a time: what is read is contiguous
      for (std::int64_t pixel = std::max<std::int64_t>(layout_.low, 0), count; pixel < end; pixel += count) {
        count = std::min<std::int64_t>(16, end - pixel);
        for (std::int64_t vector = 0; vector < vectors(); ++vector) copy(vector, next_, pixel, count);
      }
  }
  /// Asks for what the next row to be copied has of some columns: it comes while others are computed.
  void fetch(std::int64_t vector, std::int64_t column, std::int64_t count) const {
    if (next_ >= layout_.height) return;
    const std::int64_t first = std::max<std::int64_t>(column, 0), end = std::min(column + count, layout_.width);
    const S* from = image_ + (next_ * layout_.width + first) * layout_.source_channels +
                    channel(vector) / layout_.columns * layout_.depth;
    for (std::int64_t i = first; i < end; ++i, from += layout_.source_channels) __builtin_prefetch(from);
  }
  /// Pixel layout.low of a row, for source channel j of each group.
  const T* row(std::int64_t vector, std::int64_t row, std::int64_t j) const { return plane(vector, row, j); }

 private:
  T* plane(std::int64_t vector, std::int64_t row, std::int64_t j) const {
    return memory_ + ((vector * layout_.rows + (row & (layout_.rows - 1))) * layout_.depth + j) * layout_.plane();
  }
  void copy(std::int64_t vector, std::int64_t row, std::int64_t first, std::int64_t count) const;
  void copy_spread(std::int64_t vector, const S* from, T* to, std::int64_t count) const;

  const GroupedLayout<T>& layout_;
  std::int64_t channel_;
  T* memory_;
  const S* image_ = nullptr;
  std::int64_t next_ = 0;
};

/// Copies `count` pixels of a row.
template <class T, class S>
void GroupedRows<T, S>::copy(std::int64_t vector, std::int64_t row, std::int64_t first, std::int64_t count) const {
  const S* from = image_ + (row * layout_.width + first) * layout_.source_channels;
  T* to = plane(vector, row, 0) + (first - layout_.low) * lanes<T>;
  if (layout_.depth > 1 || layout_.columns > 1) return copy_spread(vector, from, to, count);
  const int some = lanes_of(vector);
  from += channel(vector);
  if (some == lanes<T>)
    for (std::int64_t i = 0; i < count; ++i) store(to + i * lanes<T>, load_wide(from + i * layout_.source_channels));
  else
    for (std::int64_t i = 0; i < count; ++i)
      store(to + i * lanes<T>, load_wide(from + i * layout_.source_channels, some));
}

/// Lane i of vector j of a pixel is its channel (c + i) / columns depth + j: all of these lie in a few vectors.
template <class T, class S>
void GroupedRows<T, S>::copy_spread(std::int64_t vector, const S* from, T* to, std::int64_t count) const {
  const std::int64_t c = channel(vector), depth = layout_.depth, columns = layout_.columns;
  const std::int64_t base = c / columns * depth, end = (c + lanes_of(vector) - 1) / columns * depth + depth;
  IntegerVector<T> lane = {};
  for (int i = 0; i < lanes_of(vector); ++i) lane[i] = static_cast<int>((c + i) / columns * depth - base);
  const auto count_from = [&](std::int64_t first) {
    return static_cast<int>(std::clamp<std::int64_t>(end - first, 0, lanes<T>));
  };
  from += base;
  for (std::int64_t pair = 0; pair < end - base; pair += 2 * lanes<T>) {
    const int low = count_from(base + pair), high = count_from(base + pair + lanes<T>);
    for (std::int64_t i = 0; i < count; ++i) {
      const S* pixel = from + i * layout_.source_channels + pair;
      const Vector<T> first = load_wide(pixel, low), second = high > 0 ? load_wide(pixel + lanes<T>, high) : first;
      for (std::int64_t j = 0; j < depth; ++j) {
        const IntegerVector<T> wanted = lane + static_cast<int>(j - pair);
        T* at = to + j * layout_.plane() + i * lanes<T>;
        const Vector<T> found = permute<T>(first, second, wanted);
        store(at, pair == 0 ? found : wanted < 0 ? load(at) : found);
      }
    }
  }
}

/// The forward pass and backward_input.
template <class T>
class GroupedProduct {
 public:
  GroupedProduct(const Context& context, const Conv2dShape& shape, Conv2dPass pass, Workspace& workspace);
  void run(const Context& context, const Array& source, const T* weights, const Destination& to) const;

  /// weights [tap][j][c], the channels c rounded up to whole vectors.
  static std::int64_t packed_size(const Conv2dShape& shape, Conv2dPass pass);
  static void pack(T* packed, const T* weight, const Conv2dShape& shape, Conv2dPass pass);

 private:
  template <class S>
  struct Strip;

  const Conv2dShape& shape_;
  const Conv2dPass pass_;
  GroupedLayout<T> layout_;
  std::int64_t rows_, columns_, strip_rows_;  // rows_, columns_: of the result
  T* memory_;
};

/// The gradient of the weights.
template <class T>
class GroupedWeightGradient {
 public:
  GroupedWeightGradient(const Context& context, const Conv2dShape& shape, Workspace& workspace);
  void run(const Context& context, const Array& dweight, const Array& x, const Array& dy) const;

 private:
  template <class S>
  void sum_chunk(const Array& x, const Array& dy, std::int64_t chunk, std::int64_t block, T* memory) const;
  template <class S>
  void sum_row(const GroupedRows<T, S>& rows, std::int64_t vector, std::int64_t row, const T* dy, T* sums) const;
  template <class S>
  void write(S* dweight) const;

  std::int64_t taps() const { return shape_.height.kernel * shape_.width.kernel; }
  std::int64_t sums_size() const { return taps() * layout_.depth * layout_.padded_channels(); }
  std::int64_t dy_size() const { return shape_.width.output() * lanes<T>; }

  const Conv2dShape& shape_;
  GroupedLayout<T> layout_;
  Chunks chunks_;  // of rows of dy
  T *memory_, *partial_;
};

}  // namespace imgrec::cpu
