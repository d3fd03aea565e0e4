// Convolutions of few output pixels. Weights are most of what these read and write, and packing them would take longer
// than the product: here they are read, and their gradient is written, once and as they lie.
#pragma once

#include "cpu/conv2d.h"

namespace imgrec::cpu {

/// Whether these kernels serve a pass: input channels are whole panels, and there are few pixels. The fewer a pass
/// saves, the fewer: forward a sum's lanes have to be added up, the gradient of x leaves out pairs beyond the borders,
/// and that of the weights is written once where others write it three times.
template <class T>
bool few_serves(const Conv2dShape& shape, DType dtype, Conv2dPass pass) {
  const std::int64_t most = pass == Conv2dPass::forward ? 32 : pass == Conv2dPass::backward_input ? 64 : 256;
  return shape.groups == 1 && size_of(dtype) == sizeof(T) && shape.in_channels > 0 &&
         shape.in_channels % micro_cols<T> == 0 && shape.outputs() > 0 && shape.outputs() <= most;
}

/// For each tap the output pixels that meet an input there, and these inputs.
class PixelPairs {
 public:
  PixelPairs(const Conv2dShape& shape, Workspace& workspace)
      : taps(shape.height.kernel * shape.width.kernel),
        most_(shape.outputs()),
        counts_(workspace.take<std::int64_t>(taps)),
        outputs_(workspace.take<std::int64_t>(taps * most_)),
        inputs_(workspace.take<std::int64_t>(taps * most_)) {}

  void find(const Conv2dShape& shape) const;

  std::int64_t count(std::int64_t tap) const { return counts_[tap]; }
  const std::int64_t* outputs(std::int64_t tap) const { return outputs_ + tap * most_; }
  const std::int64_t* inputs(std::int64_t tap) const { return inputs_ + tap * most_; }

  const std::int64_t taps;

 private:
  const std::int64_t most_;
  std::int64_t *counts_, *outputs_, *inputs_;
};

/// y: vectors run along the depth.
template <class T>
class FewForward {
 public:
  FewForward(const Conv2dShape& shape, Workspace& workspace);
  void run(const Context& context, const Array& x, const Array& weight, const Destination& to) const;

 private:
  template <int R, int V>
  void sum(const Array& weight, const Destination& to, std::int64_t pixel, std::int64_t column) const;
  template <int V>
  void sum_columns(const Array& weight, const Destination& to, std::int64_t column) const;

  const Conv2dShape& shape_;
  PixelPairs pairs_;
  T* zeros_;
  const T** pixels_;  // [tap][output]
};

/// dx: vectors run along its channels.
template <class T>
class FewInputGradient {
 public:
  FewInputGradient(const Conv2dShape& shape, Workspace& workspace) : shape_(shape), pairs_(shape, workspace) {}
  void run(const Context& context, const Array& dx, const Array& dy, const Array& weight) const;

 private:
  const Conv2dShape& shape_;
  PixelPairs pairs_;
};

/// dweight: vectors run along the channels of x.
template <class T>
class FewWeightGradient {
 public:
  FewWeightGradient(const Conv2dShape& shape, Workspace& workspace) : shape_(shape), pairs_(shape, workspace) {}
  void run(const Context& context, const Array& dweight, const Array& x, const Array& dy) const;

 private:
  const Conv2dShape& shape_;
  PixelPairs pairs_;
};

}  // namespace imgrec::cpu
