// Attention's softmax works in powers of two: log2 e is part of the factor that the scores are made with.
#pragma once

#include <array>
#include <limits>

#include "cpu/vector_math.h"

namespace imgrec::cpu {

template <class T>
inline constexpr T log2_e = T(1.44269504088896340736L);
template <class T>
inline constexpr T ln_2 = T(0.693147180559945309417L);

namespace detail {

/// (2^x - 1) / x for |x| <= 1/2, the highest power first. float: a minimax fit, 2e-9 relative to 2^x; double: Taylor.
template <class T>
constexpr auto exp2_terms() {
  if constexpr (sizeof(T) == 4) {
    return std::array<T, 6>{0x1.41fbbap-13f, 0x1.5f3e54p-10f, 0x1.3b2d4cp-7f,
                            0x1.c6aee8p-5f,  0x1.ebfbdcp-3f,  0x1.62e430p-1f};
  } else {
    std::array<T, 13> terms{};
    T term = 1;
    for (int i = 1; i <= 13; ++i) terms[13 - i] = term *= ln_2<T> / i;
    return terms;
  }
}

}  // namespace detail

/// 2^x for x up to 127 (1023), 0 where that would be subnormal: half the work of a full exp. exp2(0) is 1.
template <class T>
inline Vector<T> exp2(Vector<T> x) {
  using F = detail::Format<T>;
  constexpr auto terms = detail::exp2_terms<T>();
  constexpr T magic = F::round_magic + F::exponent_bias;  // leaves round(x) + bias in the low bits
  const Vector<T> shifted = x + magic, fraction = x - (shifted - magic);
  Vector<T> sum = broadcast<T>(terms[0]);
#pragma GCC unroll 16
  for (std::size_t i = 1; i < terms.size(); ++i) sum = sum * fraction + terms[i];
  const auto power = detail::bits_as<Vector<T>>(detail::bits_as<IntegerVector<T>>(shifted) << F::fraction_bits);
  const Vector<T> y = (sum * fraction + T(1)) * power;
  return x < T(1 - F::exponent_bias) ? Vector<T>{} : y;
}

}  // namespace imgrec::cpu
