// Sums of rows by position: the gradient of x[indices] and of tables of vectors.
//
//   y (count, columns)   y[p] = the sum of the rows whose position is p, taken in float64
//   rows (n, columns)    of y's floating dtype
//   order (n,)           int64: the rows' numbers, sorted by position; rows of one position in their order
//   positions (n,)       int64: the positions of the rows in that order; rows with one that y lacks are left out
//
// Arrays are contiguous. Rows of y that no position names are left as they are: y is filled with zeros before.
#pragma once

#include "ops/array.h"

namespace imgrec {

Plan index_add_plan(const Context& context, std::int64_t rows, std::int64_t columns);

void index_add(const Context& context, const Array& y, const Array& rows, const Array& order, const Array& positions,
               const Array& workspace);

}  // namespace imgrec
