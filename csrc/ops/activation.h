// Element-wise activations on contiguous arrays of one size: float32, float64, float16, bfloat16.
//
//   relu     max(x, 0)
//   gelu     x Phi(x), Phi the normal distribution function (erf form)
//   silu     x sigmoid(x)
//   sigmoid  1 / (1 + exp(-x))
//   tanh
//
// relu, sigmoid and tanh find their gradient from y, gelu and silu from x: `saved` is that array.
#pragma once

#include "ops/array.h"

namespace imgrec {

enum class Activation : std::uint8_t { none, relu, gelu, silu, sigmoid, tanh };

void activation_forward(const Context& context, const Array& y, const Array& x, Activation activation);

void activation_backward(const Context& context, const Array& dx, const Array& dy, const Array& saved,
                         Activation activation);

}  // namespace imgrec
