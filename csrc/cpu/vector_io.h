// Whole vectors read from and written to memory of any storage type, 16-bit types widened to float32 and rounded back.
#pragma once

#include <type_traits>

#include "cpu/dtypes.h"
#include "cpu/simd.h"

namespace imgrec::cpu {

namespace detail {

typedef std::uint16_t HalfWords __attribute__((vector_size(vector_bytes / 2)));
typedef std::int16_t SignedHalfWords __attribute__((vector_size(vector_bytes / 2)));
typedef std::uint32_t Words __attribute__((vector_size(vector_bytes)));

inline Vector<float> widen_words(HalfWords words, BFloat16) {
  const Words wide = __builtin_convertvector(words, Words) << 16;
  return reinterpret_cast<Vector<float>>(wide);
}

inline HalfWords narrow_words(Vector<float> v, BFloat16) {
  const Words bits = reinterpret_cast<Words>(v);
  const Words rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
  const Words quiet = bits | 0x400000u;  // rounding could carry a NaN over into a number
  return __builtin_convertvector(((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded) >> 16, HalfWords);
}

inline Vector<float> widen_words(HalfWords words, Float16) {
#if defined(__AVX512F__)
  constexpr int all_lanes = -1, current_rounding = 4;
  return __builtin_ia32_vcvtph2ps512_mask(reinterpret_cast<SignedHalfWords>(words), Vector<float>{}, all_lanes,
                                          current_rounding);
#elif defined(__F16C__)
  return __builtin_ia32_vcvtph2ps256(reinterpret_cast<SignedHalfWords>(words));
#else
  Vector<float> v{};
  for (int i = 0; i < lanes<float>; ++i) v[i] = widen(Float16{words[i]});
  return v;
#endif
}

inline HalfWords narrow_words(Vector<float> v, Float16) {
#if defined(__AVX512F__)
  constexpr int all_lanes = -1;
  return reinterpret_cast<HalfWords>(
      __builtin_ia32_vcvtps2ph512_mask(v, round_to_nearest, SignedHalfWords{}, all_lanes));
#elif defined(__F16C__)
  return reinterpret_cast<HalfWords>(__builtin_ia32_vcvtps2ph256(v, round_to_nearest));
#else
  HalfWords words{};
  for (int i = 0; i < lanes<float>; ++i) words[i] = narrow<Float16>(v[i]).bits;
  return words;
#endif
}

}  // namespace detail

/// How many elements a vector of the type that S is computed in holds.
template <class S>
inline constexpr int wide_lanes = lanes<Compute<S>>;

/// The first `count` <= wide_lanes<S> elements at an address of any alignment, zero beyond them.
template <class S>
inline Vector<Compute<S>> load_wide(const S* from, int count = wide_lanes<S>) {
  if constexpr (sizeof(S) > 2) {
    return count == wide_lanes<S> ? load(from) : load_partial(from, count);
  } else {
    detail::HalfWords words{};
    if (count == wide_lanes<S>)
      std::memcpy(&words, from, sizeof words);
    else
      std::memcpy(&words, from, sizeof(S) * static_cast<std::size_t>(count));
    return detail::widen_words(words, S{});
  }
}

/// Rounds to S, to the nearest with ties to even, and writes the first `count` <= wide_lanes<S> elements.
template <class S>
inline void store_narrow(S* to, Vector<Compute<S>> v, int count = wide_lanes<S>) {
  if constexpr (sizeof(S) > 2) {
    count == wide_lanes<S> ? store(to, v) : store_partial(to, v, count);
  } else {
    const detail::HalfWords words = detail::narrow_words(v, S{});
    if (count == wide_lanes<S>)
      std::memcpy(to, &words, sizeof words);
    else
      std::memcpy(to, &words, sizeof(S) * static_cast<std::size_t>(count));
  }
}

template <class T, int count>
struct Vectors {
  Vector<T> at[count];
};

/// 0, 1, 2, ... in the lanes.
template <class T>
inline Vector<T> lane_numbers() {
  T numbers[lanes<T>];
  for (int i = 0; i < lanes<T>; ++i) numbers[i] = static_cast<T>(i);
  return load(numbers);
}

/// The first `count` lanes of one vector and the rest of another.
template <class T>
inline Vector<T> select_first(int count, Vector<T> first, Vector<T> rest) {
  return lane_numbers<T>() < static_cast<T>(count) ? first : rest;
}

/// The count of a whole vector: a constant, so that the compiler leaves out what partial ones need.
template <class S>
using WholeVector = std::integral_constant<int, wide_lanes<S>>;

/// Calls body(i, count) for vectors at i = begin, begin + wide_lanes<S>, ..., the last with a smaller count. One body
/// serves whole and partial vectors, so that an element's bits do not depend on where it lies; where it takes its
/// count as `auto`, there is no branch in the loop.
template <class S, class Body>
inline void for_vectors(std::int64_t begin, std::int64_t end, Body&& body) {
  for (; begin + wide_lanes<S> <= end; begin += wide_lanes<S>) body(begin, WholeVector<S>{});
  if (begin < end) body(begin, static_cast<int>(end - begin));
}

}  // namespace imgrec::cpu
