// Storage types and the type each is computed in: float16 and bfloat16 are read into float32 and rounded on the way
// out.
#pragma once

#include <bit>
#include <cstdint>

#include "ops/array.h"

namespace imgrec::cpu {

#if defined(__F16C__)
// What immintrin.h makes of these instructions: the header itself would cost every file 0.4 s of compilation.
typedef float FourFloats __attribute__((vector_size(16)));
typedef short EightShorts __attribute__((vector_size(16)));
inline constexpr int round_to_nearest = 0;
#endif

struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }

inline float widen(BFloat16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }

inline float widen(Float16 value) {
#if defined(__F16C__)
  return __builtin_ia32_vcvtph2ps(EightShorts{static_cast<short>(value.bits)})[0];
#else
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = value.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return std::bit_cast<float>(sign | 0x7F800000u | ((magnitude & 0x3FFu) << 13));
  // Scaling by 2^112 moves the exponent's bias from 15 to 127 and makes subnormal numbers normal.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(scaled));
#endif
}

/// Rounds to the nearest, ties to even; NaN stays NaN.
template <class T>
T narrow(float value);

template <>
inline float narrow<float>(float value) {
  return value;
}

template <>
inline BFloat16 narrow<BFloat16>(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
inline Float16 narrow<Float16>(float value) {
#if defined(__F16C__)
  return {static_cast<std::uint16_t>(__builtin_ia32_vcvtps2ph(FourFloats{value}, round_to_nearest)[0])};
#else
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return {static_cast<std::uint16_t>(sign | 0x7E00u)};
  if (magnitude >= 0x477FF000u)
    return {static_cast<std::uint16_t>(sign | 0x7C00u)};  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the subnormal number in the low bits, rounded
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000u))};
  }
  const std::uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - 0x38000000u;
  return {static_cast<std::uint16_t>(sign | (rounded >> 13))};
#endif
}

template <class T>
inline T narrow(double value) {
  if constexpr (sizeof(T) == 8)
    return value;
  else
    return narrow<T>(static_cast<float>(value));
}

/// The type that T is computed in.
template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

/// Calls body(T{}) with the storage type of a floating dtype; the bindings have refused all others.
template <class Body>
void for_floating(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::float64:
      return body(double{});
    case DType::float16:
      return body(Float16{});
    case DType::bfloat16:
      return body(BFloat16{});
    default:
      return body(float{});
  }
}

/// Calls body(T{}) with the type that a floating dtype is computed in.
template <class Body>
void for_compute(DType dtype, Body&& body) {
  if (dtype == DType::float64)
    body(double{});
  else
    body(float{});
}

}  // namespace imgrec::cpu
