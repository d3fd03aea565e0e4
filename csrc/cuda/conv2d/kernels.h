// The kernels of the convolution, and what their launchers are given. conv2d.cu chooses between them.
#pragma once

#include <algorithm>

#include "cuda/conv2d/patches.h"
#include "cuda/gemm/split.h"
#include "ops/activation.h"

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
  void* partial;  // the parts' sums, of matrix products where there is more than one part
};

/// How backward_weight cuts its sum over pixels, for tiles of `side` x `side` weights.
inline DepthSplit weight_split(const Conv2dShape& shape, std::int64_t side) {
  const auto tiles = [&](std::int64_t size) { return (size + side - 1) / side; };
  return DepthSplit::of(shape.groups * tiles(shape.group_out()) * tiles(shape.taps()), shape.outputs());
}

/// Whether sums of a few strides, dilations and positions stay within 32 bits.
inline bool is_moderate(const Conv2dShape& shape) {
  constexpr std::int64_t most = 1 << 16, most_positions = 1 << 30;
  for (const Conv2dAxis& axis : {shape.height, shape.width}) {
    const std::int64_t padded = axis.input + axis.padding_before + axis.padding_after;
    if (std::max({axis.stride, axis.dilation, axis.kernel}) > most || padded > most_positions) return false;
  }
  return std::max(shape.in_channels, shape.out_channels) <= most_positions;
}

// simt.cu: any shape and dtype.
void conv2d_simt(const Context& context, const Conv2dForward& arrays, const Conv2dShape& shape);
void conv2d_simt(const Context& context, const Conv2dBackwardInput& arrays, const Conv2dShape& shape);
void conv2d_simt(const Context& context, const Conv2dBackwardWeight& arrays, const Conv2dShape& shape);

// tensor_core.cu: 16-bit dtypes, and float32 where tf32 is allowed, with channels in whole packs and aligned arrays.
bool tensor_cores_serve(const Context& context, const Conv2dShape& shape, DType dtype, Conv2dPass pass);
std::int64_t tensor_core_side(const Conv2dShape& shape, Conv2dPass pass);  // of its tiles
void conv2d_tensor_core(const Context& context, const Conv2dForward& arrays, const Conv2dShape& shape);
void conv2d_tensor_core(const Context& context, const Conv2dBackwardInput& arrays, const Conv2dShape& shape);
void conv2d_tensor_core(const Context& context, const Conv2dBackwardWeight& arrays, const Conv2dShape& shape);

// stem.cu: images of one to four channels.
bool stem_serves(const Context& context, const Conv2dShape& shape, DType dtype);
void conv2d_stem(const Context& context, const Conv2dForward& arrays, const Conv2dShape& shape);

// depthwise.cu, depthwise_weight.cu: groups of one input channel.
bool depthwise_serves(const Conv2dShape& shape, DType dtype);
std::int64_t depthwise_weight_parts(const Conv2dShape& shape);
void conv2d_depthwise(const Context& context, const Conv2dForward& arrays, const Conv2dShape& shape);
void conv2d_depthwise(const Context& context, const Conv2dBackwardInput& arrays, const Conv2dShape& shape);
void conv2d_depthwise(const Context& context, const Conv2dBackwardWeight& arrays, const Conv2dShape& shape);

// bias_gradient.cu
std::int64_t bias_gradient_parts(const Conv2dShape& shape);
void conv2d_bias_gradient(const Context& context, const Array& dbias, const Array& dy, const Conv2dShape& shape,
                          void* partial);

}  // namespace imgrec::cuda
