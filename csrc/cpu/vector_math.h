// exp, log, tanh, sigmoid and erfc on whole vectors of float and double, for every level of the processor: only
// arithmetic, comparisons and shifts, no branch, so that a lane's result does not depend on its neighbours.
//
// Each reduces its argument to a short interval and evaluates a polynomial there (after Moshier's Cephes; the
// polynomials of erfc are Chebyshev fits made for this file). Errors: at most 3 units in the last place, erfc excepted.
// Infinities and NaN are treated as by the C library.
#pragma once

#include <limits>

#include "cpu/simd.h"

namespace imgrec::cpu {

namespace detail {

/// Where IEEE 754 keeps the parts of a number, and what the functions below need to know of each type.
template <class T>
struct Format;

template <>
struct Format<float> {
  static constexpr int fraction_bits = 23, exponent_bias = 127;
  static constexpr float round_magic = 0x1.8p23f;  // adding it leaves the nearest whole number in the low bits
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_least = -104.0f, exp_greatest = 89.0f;  // beyond them exp is 0 and infinite
  static constexpr float exp_normal = -87.0f;                        // below it results are subnormal
  static constexpr float tanh_greatest = 9.5f;                       // beyond it tanh is 1
  static constexpr float exp_terms[] = {1.3814539989e-3f, 8.3687451164e-3f, 4.1668390787e-2f, 1.6666520399e-1f,
                                        4.9999993432e-1f};
  static constexpr int log_terms = 5;
};

template <>
struct Format<double> {
  static constexpr int fraction_bits = 52, exponent_bias = 1023;
  static constexpr double round_magic = 0x1.8p52;
  static constexpr double ln2_high = 0x1.62e42fefa3800p-1, ln2_low = 0x1.ef35793c76730p-45;
  static constexpr double exp_least = -746.0, exp_greatest = 710.0;
  static constexpr double exp_normal = -708.0;
  static constexpr double tanh_greatest = 20.0;
  static constexpr double exp_terms[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
                                         1.0 / 362880,     1.0 / 40320,     1.0 / 5040,     1.0 / 720,
                                         1.0 / 120,        1.0 / 24,        1.0 / 6,        1.0 / 2};
  static constexpr int log_terms = 11;
};

/// The bits of a vector as integers, and back.
template <class To, class From>
inline To bits_as(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &v, sizeof v);
  return result;
}

/// Horner's scheme, the highest power first.
template <class V, class T, int count>
inline V polynomial(V x, const T (&terms)[count]) {
  V sum = broadcast<T>(terms[0]);
#pragma GCC unroll 32
  for (int i = 1; i < count; ++i) sum = sum * x + terms[i];
  return sum;
}

/// 2^n for whole numbers n between the exponents of normal numbers.
template <class T>
inline Vector<T> power_of_two(IntegerVector<T> n) {
  return bits_as<Vector<T>>((n + Format<T>::exponent_bias) << Format<T>::fraction_bits);
}

/// y 2^n for a whole number n = shifted - round_magic whose power of two is a normal number, or infinite.
template <class T>
inline Vector<T> scale_by_normal_power(Vector<T> y, Vector<T> shifted) {
#if defined(__AVX512F__)
  constexpr int all_lanes = -1, current_rounding = 4;
  const Vector<T> n = shifted - Format<T>::round_magic;
  if constexpr (sizeof(T) == 4)
    return __builtin_ia32_scalefps512_mask(y, n, y, all_lanes, current_rounding);
  else
    return __builtin_ia32_scalefpd512_mask(y, n, y, all_lanes, current_rounding);
#else
  const auto n = bits_as<IntegerVector<T>>(shifted) - bits_as<IntegerVector<T>>(broadcast<T>(Format<T>::round_magic));
  return y * power_of_two<T>(n);
#endif
}

/// The same for any n: 2^n is multiplied in two parts, so that results below the least normal number are rounded
/// correctly and the greatest ones do not overflow early.
template <class T>
inline Vector<T> scale_by_power(Vector<T> y, Vector<T> shifted) {
#if defined(__AVX512F__)
  return scale_by_normal_power<T>(y, shifted);
#else
  const auto n = bits_as<IntegerVector<T>>(shifted) - bits_as<IntegerVector<T>>(broadcast<T>(Format<T>::round_magic));
  const IntegerVector<T> half = n >> 1;
  return y * power_of_two<T>(half) * power_of_two<T>(n - half);
#endif
}

/// exp(x) = 2^n (1 + fraction): n = shifted - round_magic = round(x / ln 2) and fraction = exp(r) - 1 for what is left,
/// |r| <= ln 2 / 2.
template <class T>
struct ReducedExp {
  Vector<T> shifted, fraction;

  explicit ReducedExp(Vector<T> x) {
    using F = Format<T>;
    shifted = x * T(1.44269504088896340736) + F::round_magic;
    const Vector<T> whole = shifted - F::round_magic;
    const Vector<T> r = (x - whole * F::ln2_high) - whole * F::ln2_low;
    fraction = polynomial(r, F::exp_terms) * (r * r) + r;
  }
};

/// x within [least, greatest]; NaN passes, for it is the second operand.
template <class T>
inline Vector<T> clamp(Vector<T> x, T least, T greatest) {
  return minimum(broadcast<T>(greatest), maximum(broadcast<T>(least), x));
}

template <class T>
inline Vector<T> exp(Vector<T> x) {
  const ReducedExp<T> reduced(clamp<T>(x, Format<T>::exp_least, Format<T>::exp_greatest));
  return scale_by_power<T>(T(1) + reduced.fraction, reduced.shifted);
}

/// log(x) = e ln 2 + 2 artanh(s) for x = 2^e m with m in [sqrt(1/2), sqrt(2)) and s = (m - 1) / (m + 1).
template <class T>
inline Vector<T> log(Vector<T> x) {
  using F = Format<T>;
  using I = IntegerVector<T>;
  const T scale = T(std::int64_t(1) << F::fraction_bits);
  const I small = x < std::numeric_limits<T>::min();  // subnormal numbers are scaled up first
  const I bits = bits_as<I>(small ? x * scale : x);
  // Subtracting the bits of sqrt(1/2) makes the exponent field change exactly where m leaves its interval.
  const I reference = bits_as<I>(broadcast<T>(T(0.70710678118654752440)));
  const I e = (bits - reference) >> F::fraction_bits;
  const Vector<T> m = bits_as<Vector<T>>(bits - (e << F::fraction_bits));
  const Vector<T> s = (m - T(1)) / (m + T(1)), z = s * s;
  Vector<T> sum = broadcast<T>(T(1) / T(2 * F::log_terms - 1));
#pragma GCC unroll 16
  for (int i = F::log_terms - 1; i >= 1; --i) sum = sum * z + T(1) / T(2 * i - 1);
  const Vector<T> exponent = __builtin_convertvector(small ? e - F::fraction_bits : e, Vector<T>);
  Vector<T> y = exponent * F::ln2_high + (exponent * F::ln2_low + T(2) * s * sum);
  y = x == T(0) ? broadcast<T>(-std::numeric_limits<T>::infinity()) : y;
  y = x < T(0) ? broadcast<T>(std::numeric_limits<T>::quiet_NaN()) : y;
  return x < std::numeric_limits<T>::infinity() ? y : (x < T(0) ? y : x);  // infinity and NaN pass
}

template <class T>
inline Vector<T> absolute(Vector<T> x) {
  return x < T(0) ? -x : x;
}

/// The sign of x times m / (m + 2) with m = exp(2 |x|) - 1 = 2^n fraction + (2^n - 1), which loses nothing to
/// cancellation near 0; for x < 0 the same formula would double the rounding of m. Three roundings near 1/16, of m, m +
/// 2 and the quotient, come to 2.6 units in the last place; a polynomial there would need half as long again.
template <class T>
inline Vector<T> tanh(Vector<T> x) {
  using I = IntegerVector<T>;
  const I sign = bits_as<I>(x) & bits_as<I>(broadcast<T>(-T(0)));
  const Vector<T> size = bits_as<Vector<T>>(bits_as<I>(x) ^ sign);
  const Vector<T> within = minimum(broadcast<T>(Format<T>::tanh_greatest), size);
  const ReducedExp<T> e(within + within);
  const Vector<T> power = scale_by_normal_power<T>(broadcast<T>(1), e.shifted);
  const Vector<T> m = power * e.fraction + (power - T(1));
  return bits_as<Vector<T>>(bits_as<I>(m / (m + T(2))) | sign);
}

/// 1 / (1 + exp(-x)). Where exp(-x) passes the greatest power of two, 2^n has the bits of infinity.
template <class T>
inline Vector<T> sigmoid(Vector<T> x) {
  const ReducedExp<T> reduced(-clamp<T>(x, -Format<T>::exp_greatest, -Format<T>::exp_normal));
  return T(1) / (T(1) + scale_by_normal_power<T>(T(1) + reduced.fraction, reduced.shifted));
}

/// erfc(x) = t exp(-x^2) P(2 t - 1) for x >= 0 with t = 2 / (2 + x), and 2 - erfc(-x) for x < 0.
/// `bell` is exp(-x^2). The rounding of x^2 grows with x: some 5 units in the last place near 0, 20 near 5.
template <class T>
inline Vector<T> erfc(Vector<T> x, Vector<T> bell) {
  const Vector<T> size = absolute<T>(x), t = T(2) / (T(2) + size), u = t + t - T(1);
  Vector<T> y;
  if constexpr (sizeof(T) == 4) {
    constexpr T terms[] = {3.270023393e-5f, -2.095941706e-5f, -0.0002938722946f, 0.0004127885182f,
                           0.001530317489f, -0.003236541194f, -0.01075268334f,   0.01822066827f,
                           0.1397358712f,   0.3435803581f,    0.5107913546f};
    y = polynomial(u, terms);
  } else {
    constexpr T terms[] = {
        -2.97488296215687824e-9,   7.53014424427352854e-9,    1.21465109196222858e-8,   -5.624214030611527e-8,
        2.29864151926819956e-8,    1.60383245566755512e-7,    -3.08957227063943671e-7,  2.17359511335892104e-9,
        1.01601059391973298e-6,    -1.82428712381811003e-6,   -5.69548380464167121e-7,  8.06150748944132991e-6,
        -0.0000108459848003628429, -0.0000170747367009552957, 0.0000722349192394604322, -0.0000171856681840815148,
        -0.000331536689447551044,  0.000418648026022440416,   0.00154530602434451965,   -0.0032395925335692568,
        -0.0107553309445160558,    0.0182211157534316819,     0.139736046278023514,     0.343580342206905353,
        0.510791352621011499};
    y = polynomial(u, terms);
  }
  y *= t * bell;
  return x < T(0) ? T(2) - y : y;
}

}  // namespace detail

#define IMGREC_VECTOR_FUNCTION(name)                                            \
  inline Vector<float> name(Vector<float> x) { return detail::name<float>(x); } \
  inline Vector<double> name(Vector<double> x) { return detail::name<double>(x); }

IMGREC_VECTOR_FUNCTION(exp)
IMGREC_VECTOR_FUNCTION(log)
IMGREC_VECTOR_FUNCTION(tanh)
IMGREC_VECTOR_FUNCTION(sigmoid)

#undef IMGREC_VECTOR_FUNCTION

}  // namespace imgrec::cpu
