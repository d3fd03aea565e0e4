// Losses. Inputs are contiguous and of any floating dtype; losses and what is kept for backward are float32 (float64
// beside float64). `loss` has an element for each row or element with Reduction::none and one element otherwise, and
// `dloss` is its gradient.
#pragma once

#include "ops/array.h"

namespace imgrec {

enum class Reduction : std::uint8_t { none, mean, sum };

struct CrossEntropyOptions {
  double label_smoothing;
  std::int64_t ignore_index;
  Reduction reduction;
};

/// A row's loss is (1 - s) w[target] (-log p[target]) + s / classes sum over c of w[c] (-log p[c]) with p the softmax
/// of the row, s the label smoothing and w the class weights (1 where there are none); 0 where the target is ignored.
/// The mean divides their sum by the sum of w[target] over the rows that count.
///
///   logits (rows, classes); targets (rows,) int64; weight (classes,) or None
///   log_sum_exp (rows,), normalizer (1,)  outputs for the backward pass: what the gradient is divided by is the latter
///   first_invalid (1,) int64              the first row whose target is no class (its loss is NaN), or -1
Plan cross_entropy_plan(const Context& context, std::int64_t rows, DType dtype, Reduction reduction);

void cross_entropy_forward(const Context& context, const Array& loss, const Array& log_sum_exp, const Array& normalizer,
                           const Array& first_invalid, const Array& logits, const Array& targets, const Array& weight,
                           const CrossEntropyOptions& options, const Array& workspace);

void cross_entropy_backward(const Context& context, const Array& dlogits, const Array& dloss, const Array& logits,
                            const Array& log_sum_exp, const Array& normalizer, const Array& targets,
                            const Array& weight, const CrossEntropyOptions& options);

/// For the two functions below.
Plan elementwise_loss_plan(const Context& context, std::int64_t size, Reduction reduction);

/// weight ((1 - target) log(1 + exp(logit)) + pos_weight target log(1 + exp(-logit))); both weights have the logits'
/// shape, or are None.
void binary_cross_entropy_with_logits_forward(const Context& context, const Array& loss, const Array& logits,
                                              const Array& targets, const Array& weight, const Array& pos_weight,
                                              Reduction reduction, const Array& workspace);

/// dlogits or dtargets may be None.
void binary_cross_entropy_with_logits_backward(const Context& context, const Array& dlogits, const Array& dtargets,
                                               const Array& dloss, const Array& logits, const Array& targets,
                                               const Array& weight, const Array& pos_weight, Reduction reduction);

/// (input - target)^2. The target's gradient is the input's with the other sign.
void mse_loss_forward(const Context& context, const Array& loss, const Array& input, const Array& target,
                      Reduction reduction, const Array& workspace);

void mse_loss_backward(const Context& context, const Array& dinput, const Array& dloss, const Array& input,
                       const Array& target, Reduction reduction);

}  // namespace imgrec
