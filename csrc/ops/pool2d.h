// Pooling over images: x (N, H, W, C) gives y (N, OH, OW, C), both contiguous and of one floating dtype.
// Windows follow PyTorch: OH = floor((H + 2 padding - kernel) / stride) + 1, padding <= kernel / 2.
#pragma once

#include "ops/array.h"

namespace imgrec {

/// Sizes along H and W.
struct PoolWindow {
  std::int64_t kernel[2], stride[2], padding[2];
};

/// winner has y's shape: for each output the position within its window (row * kernel width + column) of the first of
/// the greatest elements, or of the last NaN. uint8, or int32 where a window has more than 256 positions.
void max_pool2d_forward(const Context& context, const Array& y, const Array& winner, const Array& x,
                        const PoolWindow& window);

void max_pool2d_backward(const Context& context, const Array& dx, const Array& dy, const Array& winner,
                         const PoolWindow& window);

/// The padding counts as zeros: every sum is divided by the whole window's size.
void avg_pool2d_forward(const Context& context, const Array& y, const Array& x, const PoolWindow& window);

void avg_pool2d_backward(const Context& context, const Array& dx, const Array& dy, const PoolWindow& window);

/// Output i of O averages the inputs floor(i L / O) ... ceil((i + 1) L / O) - 1 of L.
void adaptive_avg_pool2d_forward(const Context& context, const Array& y, const Array& x);

void adaptive_avg_pool2d_backward(const Context& context, const Array& dx, const Array& dy);

}  // namespace imgrec
