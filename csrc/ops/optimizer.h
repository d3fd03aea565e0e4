// Fused updates of one parameter array in place, and what gradient clipping needs. All arrays are contiguous.
//
//   parameter, gradient  float32, float64, float16 or bfloat16, of one dtype and shape
//   buffers              float32 (float64 beside float64 parameters), of the parameter's shape, zeros before the first
//   step state                float64 [learning_rate, step] in device memory, where a captured step finds what has
//   changed;
//                        step counts from 1 and is advanced by the caller, once for all arrays
//
// Each array is read and written once: an update costs the memory traffic of its arguments.
#pragma once

#include "ops/array.h"

namespace imgrec {

struct SgdOptions {
  double momentum, weight_decay;
  bool nesterov;
};

/// g = gradient + weight_decay p; b = momentum b + g; p -= learning_rate (nesterov ? g + momentum b : b).
/// Without a momentum_buffer p -= learning_rate g (Sutskever et al., ICML 2013, in PyTorch's form).
void sgd_update(const Context& context, const Array& parameter, const Array& momentum_buffer, const Array& gradient,
                const Array& state, const SgdOptions& options);

struct AdamOptions {
  double beta1, beta2, eps, weight_decay;
  bool decoupled;  // AdamW: p is scaled by 1 - learning_rate weight_decay; otherwise weight_decay p joins the gradient
};

/// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// p -= learning_rate (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
/// (Kingma and Ba, ICLR 2015; Loshchilov and Hutter, ICLR 2019).
void adam_update(const Context& context, const Array& parameter, const Array& exp_avg, const Array& exp_avg_sq,
                 const Array& gradient, const Array& state, const AdamOptions& options);

Plan squared_norm_plan(const Context& context, std::int64_t size);

/// out (1,) float64 = the sum of the squares of all elements, taken in float64.
void squared_norm(const Context& context, const Array& out, const Array& array, const Array& workspace);

/// array *= factor, which is a float64 array of one element.
void scale_in_place(const Context& context, const Array& array, const Array& factor);

}  // namespace imgrec
