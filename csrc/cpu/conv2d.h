// What the CPU's convolution kernels share. All three products of a convolution read patches of an image, so the files
// conv2d_*.cpp are written once over `Patches`: forward gathers from x, backward_input from dy (the transposed
// convolution, one product for each phase of the stride), backward_weight from x again.
//
// No patch is ever copied: the products follow pointers to its pixels, after Dukhan, "The indirect convolution
// algorithm" (2019); a pixel outside the image is a pointer to zeros.
#pragma once

#include <utility>

#include "cpu/gemm.h"
#include "cpu/outer_product.h"
#include "cpu/storage.h"
#include "ops/conv2d.h"

namespace imgrec::cpu {

/// Along one axis, output i of a product reads its tap t at position i step + origin + t advance of the source.
struct Axis {
  std::int64_t source, outputs, step, origin, advance, taps;

  std::int64_t position(std::int64_t output, std::int64_t tap) const { return output * step + origin + tap * advance; }
  bool inside(std::int64_t position) const { return position >= 0 && position < source; }

  /// The taps [begin, end) of an output that lie inside the source.
  std::pair<std::int64_t, std::int64_t> taps_inside(std::int64_t output) const {
    std::int64_t begin = 0, end = taps;
    while (begin < end && !inside(position(output, begin))) ++begin;
    while (begin < end && !inside(position(output, end - 1))) --end;
    return {begin, end};
  }

  /// The outputs [begin, end) whose tap lies inside the source.
  std::pair<std::int64_t, std::int64_t> outputs_inside(std::int64_t tap) const {
    const std::int64_t first = origin + tap * advance;
    const std::int64_t begin = std::min(outputs, first >= 0 ? 0 : (-first + step - 1) / step);
    const std::int64_t end = first >= source ? 0 : std::min(outputs, (source - 1 - first) / step + 1);
    return {begin, std::max(begin, end)};
  }
};

Axis forward_axis(const Conv2dAxis& axis);

/// The inputs at phase, phase + stride, ...: they meet the taps first_tap, first_tap + tap_step, ... and no others.
struct PhaseAxis {
  Axis axis;
  std::int64_t phase, first_tap, tap_step;
};

PhaseAxis backward_axis(const Conv2dAxis& axis, std::int64_t phase);

/// Patches of channels-last images: for each output pixel and tap, `run` contiguous elements a group.
template <class T>
struct Patches {
  const T* data = nullptr;
  std::int64_t batch = 0, image_stride = 0, row_stride = 0, pixel_stride = 0;
  Axis height = {}, width = {};
  std::int64_t run = 0;
  const T* zeros = nullptr;  // as many as a run has

  std::int64_t outputs() const { return batch * height.outputs * width.outputs; }
  std::int64_t taps() const { return height.taps * width.taps; }
  std::int64_t depth() const { return taps() * run; }

  const T* row(std::int64_t image, std::int64_t position) const {
    return data + image * image_stride + position * row_stride;
  }

  /// Whether no patch leaves the image: then those of neighbouring outputs lie at a constant distance.
  bool inside() const;
};

/// An output pixel of a product, in the order in which they are numbered.
struct Pixel {
  std::int64_t image, row, column;

  Pixel(std::int64_t number, const Axis& height, const Axis& width)
      : image(number / (height.outputs * width.outputs)),
        row(number / width.outputs % height.outputs),
        column(number % width.outputs) {}

  void next(const Axis& height, const Axis& width) {
    if (++column < width.outputs) return;
    column = 0;
    if (++row < height.outputs) return;
    row = 0;
    ++image;
  }
};

/// An image in the storage type, and how it becomes one that the kernels read: in the type they compute in, with its
/// padding written out. Where nothing is to change it is read in place.
template <class T>
struct Source {
  std::int64_t batch, height, width, channels;
  std::int64_t top = 0, bottom = 0, left = 0, right = 0;

  /// Takes its memory, if it needs any.
  void plan(DType dtype, Workspace& workspace);
  /// Makes the copy, if there is to be one, and points the patches at it.
  void read(const Context& context, const Array& image, Patches<T>& patches) const;
  T* copy = nullptr;
  bool copied = false;
};

/// What happens to the results of a pass on their way to y or dx.
struct Destination {
  Array result, pre_activation = {}, bias = {};
  Activation activation = Activation::none;
};

/// Where a product's results go: pixel (n, i, j) to pixel (n, row_start + i row_step, column_start + j column_step) of
/// an image, with all that happens to them on the way.
template <class T>
struct Output {
  void* data = nullptr;
  DType dtype = DType::float32;
  std::int64_t height = 0, width = 0, channels = 0;
  std::int64_t row_start = 0, row_step = 1, column_start = 0, column_step = 1;
  const T* bias = nullptr;
  void* pre_activation = nullptr;
  Activation activation = Activation::none;

  /// Whether the product's own rows are the image: then a kernel writes them where they belong, pixel p at
  /// place(p, channel), and calls activate; it adds the bias itself.
  bool in_place() const { return size_of(dtype) == sizeof(T) && row_step == 1 && column_step == 1; }
  T* place(std::int64_t pixel, std::int64_t channel) const {
    return static_cast<T*>(pre_activation ? pre_activation : data) + pixel * channels + channel;
  }
  void activate(std::int64_t begin, std::int64_t rows, std::int64_t first, std::int64_t count) const;

  /// Everywhere else: writes `count` channels from `first` on of the output pixels [begin, begin + rows) of a
  /// product over these patches. values [rows][ld], the bias added, is scratch from then on.
  void write(T* values, std::int64_t ld, std::int64_t begin, std::int64_t rows, std::int64_t first, std::int64_t count,
             const Patches<T>& patches) const;
  void store(void* to, const T* values, std::int64_t ld, std::int64_t begin, std::int64_t rows, std::int64_t first,
             std::int64_t count, const Patches<T>& patches) const;
};

/// A part of a product's depth: `taps` taps of `channels` channels each, the first of them `tap` and `channel`.
struct Depth {
  std::int64_t tap, taps, channel, channels;
};

/// Where the sums of a micro-kernel go, and what they are added to: those of the depth before, or the bias.
template <class T>
struct Sums {
  T* to;
  std::int64_t ld;
  const T* start;
  std::int64_t start_ld;
  int last;  // columns of the last vector
};

/// Rows of A that lie `stride` elements apart, and their taps `tap_stride`.
template <class T>
struct StridedRows {
  const T* first;
  std::int64_t stride, tap_stride;
};

template <class T>
alignas(64) inline constexpr T no_bias[micro_cols<T>] = {};

/// conv2d_gemm.cpp: the micro-kernel. Adds A B for up to micro_rows rows and a packed panel of B; `wide` where more
/// than one vector of its columns is worth computing.
template <class T>
void multiply_rows(int rows, bool wide, const Depth& depth, const StridedRows<T>& a, const T* b, const Sums<T>& sums);

/// Whether a forward product has so few columns that its vectors run along the depth: then weights stay as they are.
template <class T>
bool runs_along_depth(const Conv2dShape& shape) {
  return shape.group_out() <= lanes<T> / 2 && shape.group_in() >= lanes<T>;
}

/// For each group, (outputs x depth) patches times a packed (depth x columns) matrix, or one [column][depth].
template <class T>
struct PatchProduct {
  Patches<T> patches;
  std::int64_t groups, columns;
  const T* packed;
  bool along_depth;
};

/// conv2d_narrow.cpp: a product of up to micro_rows rows, behind pointers [tap][micro_rows], and `columns` columns of
/// weights [column][tap][run].
template <class T>
void multiply_along_depth(const T* const* pointers, int rows, std::int64_t taps, std::int64_t run, const T* weights,
                          std::int64_t columns, const Sums<T>& sums);

template <class T>
struct PatchScratch {
  T* tiles;
  const T** pointers;

  PatchScratch(const Context& context, std::int64_t columns, std::int64_t taps, Workspace& workspace);
};

template <class T>
void multiply_patches(const Context& context, const PatchProduct<T>& product, const PatchScratch<T>& scratch,
                      const Output<T>& output);

/// weight (C_out, KH KW C / groups) as columns of the forward product.
template <class T>
void pack_forward_weights(const Context& context, T* packed, const T* weight, const Conv2dShape& shape);
/// The taps of one phase as columns of the backward product.
template <class T>
void pack_backward_weights(const Context& context, T* packed, const T* weight, const Conv2dShape& shape,
                           const PhaseAxis& height, const PhaseAxis& width);

/// conv2d_narrow.cpp: the gradient of images with fewer channels than a vector can use.
template <class T>
class NarrowInputGradient {
 public:
  static bool serves(const Conv2dShape& shape);

  NarrowInputGradient(const Context& context, const Conv2dShape& shape, Workspace& workspace);
  /// Of the patches of dy only the image counts.
  void run(const Context& context, const Array& dx, const Patches<T>& dy, const T* packed) const;

 private:
  void multiply_row(const T* dy, const T* packed, std::int64_t first, std::int64_t last, T* panel, T* z) const;
  void add_row(const T* z, T* planes) const;
  void write_row(const T* planes, T* line, const Array& dx, std::int64_t row) const;

  std::int64_t z_rows() const { return shape_.height.kernel * shape_.width.kernel * shape_.in_channels; }
  std::int64_t phases() const { return std::min(shape_.width.stride, shape_.width.input); }
  std::int64_t panel_size() const { return shape_.out_channels * micro_cols<T>; }
  std::int64_t planes_size() const {  // with room for a row of dx
    return (strip_rows_ + 1) * phases() * shape_.in_channels * plane_;
  }

  Conv2dShape shape_;
  std::int64_t columns_, plane_, before_, z_size_, strip_rows_;
  T *panel_, *z_, *planes_;
};

/// weight (C_out, KH KW C) transposed.
template <class T>
void pack_narrow_weights(T* packed, const T* weight, const Conv2dShape& shape);

/// conv2d_depthwise.cpp: each channel has its own filter, weights [tap][channel]. Narrow images, few channels and
/// channel multipliers are left to conv2d_grouped.h.
template <class T>
bool depthwise_serves(const Conv2dShape& shape) {
  return shape.groups > 1 && shape.group_in() == 1 && shape.group_out() == 1 && shape.out_channels >= lanes<T> &&
         shape.width.input > 16;
}

template <class T>
struct DepthwiseScratch {
  T* tiles;

  DepthwiseScratch(const Context& context, std::int64_t channels, Workspace& workspace);
};

template <class T>
void multiply_depthwise(const Context& context, const Patches<T>& patches, const T* weights,
                        const DepthwiseScratch<T>& scratch, const Output<T>& output);
template <class T>
void pack_depthwise_weights(T* packed, const T* weight, std::int64_t channels, const Conv2dShape& shape,
                            const PhaseAxis& height, const PhaseAxis& width);

/// Sums over pixels are cut into chunks by shapes alone; the chunks' sums meet in a tree, always the same.
struct Chunks {
  std::int64_t total, length, count;

  Chunks(std::int64_t total, std::int64_t shortest, std::int64_t most);
};

/// Adds elements [begin, end) of all chunks' partial sums, each of `size` elements, into those of the first.
template <class T>
void combine_chunks(T* partial, std::int64_t chunks, std::int64_t size, std::int64_t begin, std::int64_t end) {
  for (std::int64_t step = 1; step < chunks; step *= 2)
    for (std::int64_t chunk = 0; chunk + step < chunks; chunk += 2 * step) {
      T* to = partial + chunk * size;
      const T* from = to + step * size;
      for (std::int64_t i = begin; i < end; ++i) to[i] += from[i];
    }
}

/// conv2d_weight.cpp: dweight = patches^T dy, its layout and memory.
template <class T>
class WeightGradient {
 public:
  WeightGradient(const Context& context, const Patches<T>& patches, const Conv2dShape& shape, DType dtype,
                 Workspace& workspace);
  void run(const Context& context, const Array& dweight, const Patches<T>& patches, const Array& dy) const;

 private:
  struct Task;
  void sum_chunk(const Patches<T>& patches, const Array& dy, const Task& task) const;
  void pack_pixels(T* packed, const Array& dy, std::int64_t first, std::int64_t count, std::int64_t group) const;
  void write_block(const Array& dweight, std::int64_t group, std::int64_t block) const;

  std::int64_t groups_, columns_, width_;  // width_: columns rounded up to whole panels
  OuterBlocks run_;                        // the channels of a tap
  std::int64_t taps_, blocks_, parts_;
  bool reads_in_place_;  // dy
  Chunks chunks_;
  std::int64_t pixel_block_, size_;  // size_: elements of one chunk's partial sums
  T *partial_, *packed_;
  const T** pointers_;
};

template <class T>
class DepthwiseWeightGradient {
 public:
  DepthwiseWeightGradient(const Patches<T>& patches, const Conv2dShape& shape, Workspace& workspace);
  /// Of the patches of dy only the image counts.
  void run(const Context& context, const Array& dweight, const Patches<T>& patches, const Patches<T>& dy) const;

 private:
  std::int64_t channels_, taps_;  // channels_: rounded up to whole vectors
  Chunks chunks_;
  T* partial_;
};

/// dbias: the sum of dy over all pixels.
template <class T>
class BiasGradient {
 public:
  BiasGradient(const Conv2dShape& shape, Workspace& workspace);
  void run(const Context& context, const Array& dbias, const Array& dy) const;

 private:
  std::int64_t channels_;
  Chunks chunks_;
  T* partial_;
};

}  // namespace imgrec::cpu
