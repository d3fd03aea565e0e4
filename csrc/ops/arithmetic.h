// Sums of arrays in the host's memory: additions that are large enough for several threads. On GPUs they are CuPy's.
// All arrays are contiguous and of one floating dtype.
#pragma once

#include "ops/array.h"

namespace imgrec {

/// z = x + y, element by element. y has x's shape or lacks some of its first dimensions, and then is added again and
/// again. z has x's shape, and may be x.
void add(const Context& context, const Array& z, const Array& x, const Array& y);

Plan sum_rows_plan(const Context& context, std::int64_t batch, std::int64_t rows, std::int64_t columns, DType dtype);

/// y (batch, columns) = the sums of x (batch, rows, columns) over its rows, taken and divided in float64.
void sum_rows(const Context& context, const Array& y, const Array& x, double divisor, const Array& workspace);

}  // namespace imgrec
