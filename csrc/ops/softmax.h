// softmax and log_softmax along the last axis of contiguous arrays: float32, float64, float16, bfloat16; computed in
// float32 for the 16-bit types.
//
//   softmax      y_i = exp(x_i - max x) / sum_j exp(x_j - max x)      dx_i = y_i (dy_i - sum_j dy_j y_j)
//   log_softmax  y_i = x_i - max x - log sum_j exp(x_j - max x)       dx_i = dy_i - exp(y_i) sum_j dy_j
#pragma once

#include "ops/array.h"

namespace imgrec {

enum class Softmax : std::uint8_t { plain, logarithmic };

void softmax_forward(const Context& context, const Array& y, const Array& x, Softmax kind);

void softmax_backward(const Context& context, const Array& dx, const Array& dy, const Array& y, Softmax kind);

}  // namespace imgrec
