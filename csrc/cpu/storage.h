// Runs of elements whose storage type is known at run time only: what lies between them is compiled for float and
// double alone.
#pragma once

#include "cpu/dtypes.h"

namespace imgrec::cpu {

/// Reads contiguous elements of any floating dtype as T, the type that it is computed in.
template <class T>
void widen_all(T* to, const void* from, DType dtype, std::int64_t offset, std::int64_t count);

/// Writes elements of T as a floating dtype that is computed in T.
template <class T>
void narrow_all(void* to, DType dtype, std::int64_t offset, const T* from, std::int64_t count);

}  // namespace imgrec::cpu
