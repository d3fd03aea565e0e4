// Normalisation. x (rows, columns) is contiguous, of any floating dtype; mean, inverse deviation, running statistics,
// weight and bias are float32 (float64 beside float64), and statistics and sums are taken in that type.
// Variances come from deviations, never from sums of squares, so that a large mean costs no accuracy.
// An activation may follow, before y is written. The backward functions find what it was applied to from x, with the
// arguments of the forward function: nothing more is kept for it.
#pragma once

#include "ops/activation.h"

namespace imgrec {

/// The workspace of all functions below, forward and backward.
Plan norm_plan(const Context& context, std::int64_t rows, std::int64_t columns, DType dtype);

struct BatchNormOptions {
  bool training;  // statistics of x, otherwise the running ones
  double momentum, eps;
};

/// y = activation((x - mean) inverse_deviation weight + bias), each column with its own mean and 1 / sqrt(variance +
/// eps) (Ioffe and Szegedy, ICML 2015). mean, inverse_deviation (columns,) are outputs, kept for the backward pass. In
/// training the running statistics move by `momentum` towards the mean and the unbiased variance of x. Optional:
/// weight, bias and, in training, both running statistics.
void batch_norm_forward(const Context& context, const Array& y, const Array& mean, const Array& inverse_deviation,
                        const Array& running_mean, const Array& running_var, const Array& x, const Array& weight,
                        const Array& bias, const BatchNormOptions& options, Activation activation,
                        const Array& workspace);

/// dweight, dbias are always written.
void batch_norm_backward(const Context& context, const Array& dx, const Array& dweight, const Array& dbias,
                         const Array& dy, const Array& x, const Array& weight, const Array& bias, const Array& mean,
                         const Array& inverse_deviation, bool training, Activation activation, const Array& workspace);

/// The same with a mean and an inverse deviation (rows,) for each row (Ba, Kiros and Hinton, 2016); weight and bias
/// still belong to columns.
void layer_norm_forward(const Context& context, const Array& y, const Array& mean, const Array& inverse_deviation,
                        const Array& x, const Array& weight, const Array& bias, double eps, Activation activation);

void layer_norm_backward(const Context& context, const Array& dx, const Array& dweight, const Array& dbias,
                         const Array& dy, const Array& x, const Array& weight, const Array& bias, const Array& mean,
                         const Array& inverse_deviation, Activation activation, const Array& workspace);

}  // namespace imgrec
