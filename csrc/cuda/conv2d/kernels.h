// The kernels of the convolution, and what their launchers are given. conv2d.cu chooses between them.
#pragma once

#include "cuda/conv2d/patches.h"
#include "cuda/gemm/split.h"

namespace imgrec::cuda {

struct Conv2dForward {
  Array y, pre_activation, x, weight, bias;
  Activation activation;
};
struct Conv2dBackwardInput {
  Array dx, dy, weight;
};
struct Conv2dBackwardWeight {
  Array dweight, x, dy;
  void* partial;  // the parts' sums, where there is more than one part
};

/// How backward_weight cuts its sum over pixels, for tiles of `side` x `side` weights.
inline DepthSplit weight_split(const Conv2dShape& shape, std::int64_t side) {
  const std::int64_t taps = shape.height.kernel * shape.width.kernel * shape.group_in();
  const auto tiles = [&](std::int64_t size) { return (size + side - 1) / side; };
  return DepthSplit::of(shape.groups * tiles(shape.group_out()) * tiles(taps),
                        shape.batch * shape.height.output() * shape.width.output());
}

// simt.cu: any shape and dtype.
void conv2d_simt(const Context& context, const Conv2dForward& arrays, const Conv2dShape& shape);
void conv2d_simt(const Context& context, const Conv2dBackwardInput& arrays, const Conv2dShape& shape);
void conv2d_simt(const Context& context, const Conv2dBackwardWeight& arrays, const Conv2dShape& shape);

// bias_gradient.cu
std::int64_t bias_gradient_parts(const Conv2dShape& shape);
void conv2d_bias_gradient(const Context& context, const Array& dbias, const Array& dy, const Conv2dShape& shape,
                          void* partial);

}  // namespace imgrec::cuda
