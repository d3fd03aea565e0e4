// What the bindings tell a device about memory. The simulator with checkers holds kernels to it; for other devices the
// functions do nothing.
#pragma once

#include "ops/array.h"

namespace imgrec {

/// Two bytes that fill memory which nothing was written to yet: NaN in every floating dtype.
constexpr std::uint16_t memory_poison = 0xFFF7;

/// Whether all fresh memory is to be filled with memory_poison.
bool poisons_memory();

/// The calling thread begins to read the arguments of an operation: the arrays of its last one are forgotten.
void begin_operation();

/// The operation was given an array: its kernels may read it, and write it where it is writable.
void give_array(const Array& array, bool writable);

}  // namespace imgrec
