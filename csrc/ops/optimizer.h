// Fused updates of many parameter arrays in place, and what gradient clipping needs. All arrays are contiguous, and
// what stands at the same place of the lists belongs together. No list is empty where nothing else is said.
//
//   parameters, gradients  float32, float64, float16 or bfloat16: all of one dtype, each pair of one shape
//   buffers                float32 (float64 beside float64 parameters), of the parameter's shape, zeros before the
//                          first step
//   skip                   boolean (1,), or None: where it is true an update changes nothing at all
//   learning_rate, momentum, beta1
//                          float64 (1,), in device memory as skip and the steps are: what schedules change is read
//                          there, so that a captured step finds it
//
// Each array is read and written once: an update costs the memory traffic of its arguments.
#pragma once

#include "ops/array.h"

namespace imgrec {

struct SgdOptions {
  double weight_decay;
  bool nesterov;
};

/// g = gradient + weight_decay p; b = momentum b + g; p -= learning_rate (nesterov ? g + momentum b : b).
/// Where the list of momentum_buffers is empty p -= learning_rate g (Sutskever et al., ICML 2013, in PyTorch's form).
void sgd_update(const Context& context, Arrays parameters, Arrays momentum_buffers, Arrays gradients, const Array& skip,
                const Array& learning_rate, const Array& momentum, const SgdOptions& options);

struct AdamOptions {
  double beta2, eps, weight_decay;
  bool decoupled;  // AdamW: p is scaled by 1 - learning_rate weight_decay; otherwise weight_decay p joins the gradient
};

/// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// p -= learning_rate (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
/// (Kingma and Ba, ICLR 2015; Loshchilov and Hutter, ICLR 2019).
/// steps: an int64 number () for each parameter, which is advanced by one first.
void adam_update(const Context& context, Arrays parameters, Arrays exp_avgs, Arrays exp_avg_sqs, Arrays steps,
                 Arrays gradients, const Array& skip, const Array& learning_rate, const Array& beta1,
                 const AdamOptions& options);

Plan squared_norm_plan(const Context& context, Arrays arrays);

/// out (1,) float64 = the sum of the squares of all elements of all arrays, taken in float64.
void squared_norm(const Context& context, const Array& out, Arrays arrays, const Array& workspace);

/// All arrays *= factor, which is a float64 array (1,).
void scale_in_place(const Context& context, Arrays arrays, const Array& factor);

}  // namespace imgrec
