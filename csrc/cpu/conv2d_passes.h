// The parts of a convolution's passes, dense, depthwise or of small groups, with the memory they take: built once for
// the plan and once, over real memory, to run.
#pragma once

#include <optional>

#include "cpu/conv2d_grouped.h"
#include "cpu/conv2d_winograd.h"

namespace imgrec::cpu {

/// Elements in the type that is computed in: the array's own, or a copy.
template <class T>
class Widened {
 public:
  Widened(std::int64_t count, DType dtype, Workspace& workspace)
      : count_(count), copied_(size_of(dtype) != sizeof(T)), copy_(copied_ ? workspace.take<T>(count) : nullptr) {}

  const T* read(const Array& array) const {
    if (!array) return nullptr;
    if (!copied_) return array.as<const T>();
    widen_all(copy_, array.data, array.dtype, 0, count_);
    return copy_;
  }

 private:
  std::int64_t count_;
  bool copied_;
  T* copy_;
};

inline std::int64_t weight_count(const Conv2dShape& shape) {
  return shape.out_channels * shape.height.kernel * shape.width.kernel * shape.group_in();
}

/// An image together with the patches that are read from it.
template <class T>
struct ImagePatches {
  Source<T> source;
  Patches<T> patches = {};
  T* zeros = nullptr;

  void plan(DType dtype, Workspace& workspace) {
    patches.batch = source.batch;
    patches.pixel_stride = source.channels;
    patches.row_stride = (source.left + source.width + source.right) * source.channels;
    patches.image_stride = (source.top + source.height + source.bottom) * patches.row_stride;
    source.plan(dtype, workspace);
    zeros = workspace.take<T>(patches.run);
    patches.zeros = zeros;
  }

  const Patches<T>& read(const Context& context, const Array& image) {
    std::fill(zeros, zeros + patches.run, T(0));
    source.read(context, image, patches);
    return patches;
  }
};

inline void write_padding_out(Axis& axis, const Conv2dAxis& shape, std::int64_t& before, std::int64_t& after) {
  before = shape.padding_before;
  after = shape.padding_after;
  axis.source += before + after;
  axis.origin = 0;
}

/// The patches of x, for the forward pass and for the gradient of the weights.
template <class T>
ImagePatches<T> input_patches(const Conv2dShape& shape, DType dtype, Workspace& workspace) {
  const Conv2dAxis &height = shape.height, &width = shape.width;
  ImagePatches<T> x{{shape.batch, height.input, width.input, shape.in_channels}};
  x.patches.height = forward_axis(height);
  x.patches.width = forward_axis(width);
  x.patches.run = shape.group_in();
  const bool padded = height.padding_before + height.padding_after + width.padding_before + width.padding_after > 0;
  const bool widened = size_of(dtype) != sizeof(T);
  // With its padding written out, the taps of a row are one contiguous run. Few channels gain more by that than the
  // copy costs; where there is a copy anyway, or no padding, it is free.
  const bool merged = shape.groups == 1 && width.dilation == 1 && (!padded || widened || shape.in_channels < 16);
  if (padded && (widened || merged)) {
    write_padding_out(x.patches.height, height, x.source.top, x.source.bottom);
    write_padding_out(x.patches.width, width, x.source.left, x.source.right);
  }
  if (merged) {
    x.patches.run = width.kernel * shape.in_channels;
    x.patches.width.taps = 1;
  }
  if (depthwise_serves<T>(shape)) x.patches.run = shape.out_channels;
  x.plan(dtype, workspace);
  return x;
}

/// dy as an image: its patches depend on the phase, or are its pixels.
template <class T>
ImagePatches<T> gradient_patches(const Conv2dShape& shape, DType dtype, Workspace& workspace) {
  ImagePatches<T> dy{{shape.batch, shape.height.output(), shape.width.output(), shape.out_channels}};
  dy.patches.run = shape.group_out();
  if (depthwise_serves<T>(shape)) dy.patches.run = shape.out_channels;
  dy.plan(dtype, workspace);
  return dy;
}

/// Calls body(i, j, height, width) for every phase of the stride that has inputs, always in the same order.
template <class Body>
void for_phases(const Conv2dShape& shape, Body&& body) {
  for (std::int64_t i = 0; i < std::min(shape.height.stride, shape.height.input); ++i)
    for (std::int64_t j = 0; j < std::min(shape.width.stride, shape.width.input); ++j)
      body(i, j, backward_axis(shape.height, i), backward_axis(shape.width, j));
}

/// The weights as the products read them: in the type they compute in, for backward_input one phase after another.
template <class T>
class PackedWeights {
 public:
  PackedWeights(const Conv2dShape& shape, DType dtype, Conv2dPass pass, Workspace& packed)
      : shape_(shape), pass_(pass), weight_(weight_count(shape), dtype, packed) {
    std::int64_t size = part_size(shape.height.kernel * shape.width.kernel);
    if (grouped()) {
      size = GroupedProduct<T>::packed_size(shape, pass);
    } else if (narrow() || along_depth()) {
      size = weight_count(shape);
    } else if (pass == Conv2dPass::backward_input) {
      size = 0;
      for_phases(shape, [&](auto, auto, const PhaseAxis& height, const PhaseAxis& width) {
        size += part_size(height.axis.taps * width.axis.taps);
      });
    }
    data_ = packed.take<T>(size);
  }

  const T* data() const { return data_; }

  /// Elements of a part with so many taps.
  std::int64_t part_size(std::int64_t taps) const {
    if (depthwise_serves<T>(shape_)) return taps * shape_.out_channels;
    const bool forward = pass_ == Conv2dPass::forward;
    const std::int64_t depth = taps * (forward ? shape_.group_in() : shape_.group_out());
    return shape_.groups * depth * round_up(forward ? shape_.group_out() : shape_.group_in(), micro_cols<T>);
  }

  void pack(const Context& context, const Array& array) const {
    const T* weight = weight_.read(array);
    if (grouped()) return GroupedProduct<T>::pack(data_, weight, shape_, pass_);
    if (pass_ == Conv2dPass::forward) return pack_forward(context, weight);
    if (narrow()) return pack_narrow_weights(data_, weight, shape_);
    T* to = data_;
    for_phases(shape_, [&](auto, auto, const PhaseAxis& height, const PhaseAxis& width) {
      if (depthwise_serves<T>(shape_))
        pack_depthwise_weights(to, weight, shape_.out_channels, shape_, height, width);
      else
        pack_backward_weights(context, to, weight, shape_, height, width);
      to += part_size(height.axis.taps * width.axis.taps);
    });
  }

 private:
  bool grouped() const { return grouped_serves<T>(shape_, pass_); }

  bool narrow() const { return pass_ == Conv2dPass::backward_input && NarrowInputGradient<T>::serves(shape_); }

  bool along_depth() const { return pass_ == Conv2dPass::forward && runs_along_depth<T>(shape_); }

  void pack_forward(const Context& context, const T* weight) const {
    if (along_depth()) return static_cast<void>(std::copy_n(weight, weight_count(shape_), data_));
    if (!depthwise_serves<T>(shape_)) return pack_forward_weights(context, data_, weight, shape_);
    pack_depthwise_weights(data_, weight, shape_.out_channels, shape_, {forward_axis(shape_.height), 0, 0, 1},
                           {forward_axis(shape_.width), 0, 0, 1});
  }

  const Conv2dShape& shape_;
  const Conv2dPass pass_;
  Widened<T> weight_;
  T* data_;
};

/// The product of patches with packed weights, dense or depthwise, for up to all taps.
template <class T>
class Product {
 public:
  Product(const Context& context, const Conv2dShape& shape, Conv2dPass pass, Workspace& workspace)
      : shape_(shape),
        columns_(pass == Conv2dPass::forward ? shape.group_out() : shape.group_in()),
        along_depth_(pass == Conv2dPass::forward && runs_along_depth<T>(shape)),
        dense_(context, depthwise_serves<T>(shape) ? 0 : columns_, depthwise_serves<T>(shape) ? 0 : taps(), workspace),
        depthwise_(context, depthwise_serves<T>(shape) ? shape.out_channels : 0, workspace) {}

  void run(const Context& context, const Patches<T>& patches, const T* packed, const Output<T>& output) const {
    if (depthwise_serves<T>(shape_)) return multiply_depthwise(context, patches, packed, depthwise_, output);
    multiply_patches(context, {patches, shape_.groups, columns_, packed, along_depth_}, dense_, output);
  }

 private:
  std::int64_t taps() const { return shape_.height.kernel * shape_.width.kernel; }

  const Conv2dShape& shape_;
  std::int64_t columns_;
  bool along_depth_;
  PatchScratch<T> dense_;
  DepthwiseScratch<T> depthwise_;
};

/// The parts of each pass, with the memory they take: built once for the plan and once, over real memory, to run.
template <class T>
struct ForwardPass {
  Widened<T> bias;
  ImagePatches<T> x;
  Product<T> product;

  ForwardPass(const Context& context, const Conv2dShape& shape, DType dtype, Workspace& workspace)
      : bias(shape.out_channels, dtype, workspace),
        x(input_patches<T>(shape, dtype, workspace)),
        product(context, shape, Conv2dPass::forward, workspace) {}
};

template <class T>
struct BackwardInputPass {
  ImagePatches<T> dy;
  std::optional<NarrowInputGradient<T>> narrow;
  std::optional<Product<T>> product;

  BackwardInputPass(const Context& context, const Conv2dShape& shape, DType dtype, Workspace& workspace)
      : dy(gradient_patches<T>(shape, dtype, workspace)) {
    if (NarrowInputGradient<T>::serves(shape))
      narrow.emplace(context, shape, workspace);
    else
      product.emplace(context, shape, Conv2dPass::backward_input, workspace);
  }
};

template <class T>
struct BackwardWeightPass {
  ImagePatches<T> x;
  BiasGradient<T> bias;
  std::optional<WeightGradient<T>> dense;
  std::optional<ImagePatches<T>> dy;
  std::optional<DepthwiseWeightGradient<T>> depthwise;

  BackwardWeightPass(const Context& context, const Conv2dShape& shape, DType dtype, Workspace& workspace)
      : x(input_patches<T>(shape, dtype, workspace)), bias(shape, workspace) {
    if (depthwise_serves<T>(shape)) {
      dy = gradient_patches<T>(shape, dtype, workspace);
      depthwise.emplace(x.patches, shape, workspace);
    } else {
      dense.emplace(context, x.patches, shape, dtype, workspace);
    }
  }
};

template <class T>
struct GroupedWeightPass {
  BiasGradient<T> bias;
  GroupedWeightGradient<T> weight;

  GroupedWeightPass(const Context& context, const Conv2dShape& shape, Workspace& workspace)
      : bias(shape, workspace), weight(context, shape, workspace) {}
};

struct WinogradWeightPass {
  BiasGradient<float> bias;
  WinogradWeightGradient weight;

  WinogradWeightPass(const Context& context, const Conv2dShape& shape, Workspace& workspace)
      : bias(shape, workspace), weight(context, shape, workspace) {}
};

/// Of the scratch memory of the direct kernels.
template <class T>
std::int64_t workspace_bytes(const Context& context, const Conv2dShape& shape, DType dtype, Conv2dPass pass) {
  Workspace workspace;
  if (grouped_serves<T>(shape, pass)) {
    if (pass == Conv2dPass::backward_weight)
      GroupedWeightPass<T>(context, shape, workspace);
    else
      GroupedProduct<T>(context, shape, pass, workspace);
  } else if (pass == Conv2dPass::forward) {
    ForwardPass<T>(context, shape, dtype, workspace);
  } else if (pass == Conv2dPass::backward_input) {
    BackwardInputPass<T>(context, shape, dtype, workspace);
  } else {
    BackwardWeightPass<T>(context, shape, dtype, workspace);
  }
  return workspace.used();
}

}  // namespace imgrec::cpu
