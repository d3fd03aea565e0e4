// Division by a number that is known before the launch, without a division: multiply by its reciprocal, then correct.
#pragma once

#include "cuda/arch/cuda.h"

namespace imgrec::cuda {

/// Divides dividends from 0 to 2^62 exactly by a divisor of 1 or more. floor((2^b - 1) / d) n / 2^b is at most one
/// below n / d for all n < 2^(b - 1), and the remainder tells. Most dividends are below 2^31 and take b = 32.
/// Source: Granlund and Montgomery, "Division by invariant integers using multiplication" (1994).
struct FastDivisor {
  struct Result {
    std::int64_t quotient, remainder;
  };
  std::int64_t divisor;
  std::uint64_t reciprocal;  // its upper half is that for b = 32

  FastDivisor() = default;
  explicit FastDivisor(std::int64_t by) : divisor(by), reciprocal(~0ull / static_cast<std::uint64_t>(by)) {}

  __device__ __forceinline__ Result divide(std::int64_t dividend) const {
    if (dividend >> 31 == 0) {
      const auto n = static_cast<std::uint32_t>(dividend), d = static_cast<std::uint32_t>(divisor);
      if (divisor >> 31 != 0) return {0, dividend};
      const std::uint32_t below = __umulhi(n, static_cast<std::uint32_t>(reciprocal >> 32)), rest = n - below * d;
      return rest >= d ? Result{below + 1, rest - d} : Result{below, rest};
    }
    const auto below = static_cast<std::int64_t>(__umul64hi(static_cast<std::uint64_t>(dividend), reciprocal));
    const std::int64_t rest = dividend - below * divisor;
    return rest >= divisor ? Result{below + 1, rest - divisor} : Result{below, rest};
  }
};

}  // namespace imgrec::cuda
