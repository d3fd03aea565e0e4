// Connectionist temporal classification: the loss of a sequence of labels whose places in time are not known. Graves et
// al., "Connectionist temporal classification: labelling unsegmented sequence data with recurrent neural networks",
// ICML 2006.
//
// A path names a class, or blank, at each step, and spells what is left of it when repetitions are merged and then
// blanks are dropped. The loss is minus the logarithm of the probability of all paths that spell the targets. With the
// states l = blank, target 1, blank, target 2, ..., blank of a sample (2 S + 1 of them):
//
//   alpha_t(s) = log p_t(l_s) + log sum of exp over alpha_{t-1}(s), alpha_{t-1}(s - 1) and, where l_s is neither blank
//                nor l_{s-2}, alpha_{t-1}(s - 2)
//   loss = - log sum of exp over the last step's last two states
//   d loss / d log p_t(k) = - sum over s with l_s = k of exp(alpha_t(s) + beta_t(s) + loss)
//
// where beta_t(s) is the same from the other end, without p_t(l_s).
//
//   log_probs (N, T, C) of any floating dtype       targets (N, S) int64; classes other than blank
//   input_lengths, target_lengths (N,) int64        how much of T and S is in use
//   loss (N,)                                       float32 (float64 beside float64), as alpha
//   alpha (N, T, 2 S + 1)                           kept for backward: each step's alpha less its greatest
//   first_invalid (1,) int64                        the first sample with a length or target that cannot be (its loss
//                                                   is NaN), or -1
// All contiguous. No path spells targets that are too long for their input: their loss is infinite.
#pragma once

#include "ops/array.h"

namespace imgrec {

struct CtcShape {
  std::int64_t batch, steps, classes, targets, blank;  // targets: S

  std::int64_t states() const { return 2 * targets + 1; }
};

Plan ctc_plan(const Context& context, const CtcShape& shape, DType dtype);

void ctc_forward(const Context& context, const Array& loss, const Array& alpha, const Array& first_invalid,
                 const Array& log_probs, const Array& targets, const Array& input_lengths, const Array& target_lengths,
                 const CtcShape& shape, const Array& workspace);

/// The gradients of samples whose loss is NaN are NaN; those of samples whose loss is infinite are NaN too, or zero
/// with zero_infinity.
void ctc_backward(const Context& context, const Array& dlog_probs, const Array& dloss, const Array& loss,
                  const Array& alpha, const Array& log_probs, const Array& targets, const Array& input_lengths,
                  const Array& target_lengths, const CtcShape& shape, bool zero_infinity, const Array& workspace);

}  // namespace imgrec
