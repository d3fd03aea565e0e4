// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// Element i of a draw depends on (seed, offset, i) alone, so every device and every thread count gives the same bits.
// `state` is an int64 array [seed, offset] in device memory: a captured step replays with fresh numbers.
#pragma once

#include "ops/array.h"

namespace imgrec {

/// out (any shape, contiguous, float32 or float64): uniform in [low, high).
void random_uniform(const Context& context, const Array& out, const Array& state, double low, double high);

/// out (any shape, contiguous, float32 or float64): normal with the mean and standard deviation given.
void random_normal(const Context& context, const Array& out, const Array& state, double mean, double deviation);

/// out (n, 4) int64: the raw 32-bit words of n counters from index `first` on, for tests.
void random_bits(const Context& context, const Array& out, const Array& state, std::uint64_t first);

/// y = x * keep / (1 - probability), where keep is drawn for each element. Its own backward, with dy in place of x.
void dropout(const Context& context, const Array& y, const Array& x, const Array& state, double probability);

}  // namespace imgrec
