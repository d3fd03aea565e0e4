// Vectors of the width that this copy of the library is compiled for, on GCC's and clang's vector extension:
// the same source serves SSE2, AVX2, AVX-512 and NEON (CMakeLists.txt builds one library a level).
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace imgrec::cpu {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
inline constexpr int vector_registers = 32;
#elif defined(__AVX2__)
inline constexpr int vector_bytes = 32;
inline constexpr int vector_registers = 16;
#elif defined(__aarch64__)
inline constexpr int vector_bytes = 16;
inline constexpr int vector_registers = 32;
#else
inline constexpr int vector_bytes = 16;
inline constexpr int vector_registers = 16;
#endif

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(vector_bytes)));
  typedef std::int32_t integer __attribute__((vector_size(vector_bytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(vector_bytes)));
  typedef std::int64_t integer __attribute__((vector_size(vector_bytes)));
};

template <class T>
using Vector = typename VectorOf<T>::type;
/// Integers of the same width, lane by lane: what comparisons of Vector<T> give.
template <class T>
using IntegerVector = typename VectorOf<T>::integer;

template <class T>
inline constexpr int lanes = vector_bytes / static_cast<int>(sizeof(T));

/// Reads a whole vector from an address of any alignment.
template <class T>
inline Vector<T> load(const T* from) {
  Vector<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
inline void store(T* to, Vector<T> v) {
  std::memcpy(to, &v, sizeof v);
}

template <class T>
inline Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

/// The first `count` < lanes elements, zero beyond them.
template <class T>
inline Vector<T> load_partial(const T* from, int count) {
#if defined(__AVX512F__)
  const auto mask = static_cast<unsigned>((1 << count) - 1);
  if constexpr (sizeof(T) == 4)
    return __builtin_ia32_loadups512_mask(from, Vector<T>{}, static_cast<unsigned short>(mask));
  else
    return __builtin_ia32_loadupd512_mask(from, Vector<T>{}, static_cast<unsigned char>(mask));
#else
  Vector<T> v{};
  std::memcpy(&v, from, sizeof(T) * static_cast<std::size_t>(count));
  return v;
#endif
}

template <class T>
inline void store_partial(T* to, Vector<T> v, int count) {
#if defined(__AVX512F__)
  const auto mask = static_cast<unsigned>((1 << count) - 1);
  if constexpr (sizeof(T) == 4)
    __builtin_ia32_storeups512_mask(to, v, static_cast<unsigned short>(mask));
  else
    __builtin_ia32_storeupd512_mask(to, v, static_cast<unsigned char>(mask));
#else
  std::memcpy(to, &v, sizeof(T) * static_cast<std::size_t>(count));
#endif
}

/// The first `count` <= lanes elements.
template <class T>
inline Vector<T> load_first(const T* from, int count) {
  return count == lanes<T> ? load(from) : load_partial(from, count);
}

template <class T>
inline void store_first(T* to, Vector<T> v, int count) {
  count == lanes<T> ? store(to, v) : store_partial(to, v, count);
}

/// a > b ? a : b, lane by lane; the second where either is NaN. With AVX-512 the compiler would take a comparison and
/// a blend where one operand is a constant.
template <class V>
inline V maximum(V a, V b) {
#if defined(__AVX512F__)
  constexpr int all_lanes = -1, current_rounding = 4;
  if constexpr (std::is_same_v<V, Vector<float>>)
    return __builtin_ia32_maxps512_mask(a, b, b, all_lanes, current_rounding);
  if constexpr (std::is_same_v<V, Vector<double>>)
    return __builtin_ia32_maxpd512_mask(a, b, b, all_lanes, current_rounding);
#endif
  return a > b ? a : b;
}

template <class V>
inline V minimum(V a, V b) {
#if defined(__AVX512F__)
  constexpr int all_lanes = -1, current_rounding = 4;
  if constexpr (std::is_same_v<V, Vector<float>>)
    return __builtin_ia32_minps512_mask(a, b, b, all_lanes, current_rounding);
  if constexpr (std::is_same_v<V, Vector<double>>)
    return __builtin_ia32_minpd512_mask(a, b, b, all_lanes, current_rounding);
#endif
  return a < b ? a : b;
}

/// Lane i of the result is lane i + distance, counted around.
template <int distance, class V, int... lane>
inline V rotate(V v, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(v, v, ((lane + distance) % static_cast<int>(sizeof...(lane)))...);
}

/// All lanes in one, halves first: the order is part of the result.
template <class T, int width = lanes<T> / 2, class Combine>
inline T fold_lanes(Vector<T> v, Combine&& combine) {
  if constexpr (width == 0)
    return v[0];
  else
    return fold_lanes<T, width / 2>(combine(v, rotate<width>(v, std::make_integer_sequence<int, lanes<T>>{})), combine);
}

template <class T>
inline T horizontal_sum(Vector<T> v) {
  return fold_lanes<T>(v, [](Vector<T> a, Vector<T> b) { return a + b; });
}

template <class T>
inline T horizontal_max(Vector<T> v) {
  return fold_lanes<T>(v, [](Vector<T> a, Vector<T> b) { return maximum(a, b); });
}

/// Lane i of the result is lane numbers[i] of the two vectors one after the other.
template <class T>
inline Vector<T> permute(Vector<T> first, Vector<T> second, IntegerVector<T> numbers) {
#if defined(__clang__)
  Vector<T> result;
  for (int i = 0; i < lanes<T>; ++i) {
    const auto number = numbers[i] & (2 * lanes<T> - 1);
    result[i] = number < lanes<T> ? first[number] : second[number - lanes<T>];
  }
  return result;
#else
  return __builtin_shuffle(first, second, numbers);
#endif
}

/// One step of a transposition: exchanges the off-diagonal blocks of `width` lanes between two rows `width` apart.
template <class V, int width, int... lane>
inline void exchange_blocks(V& above, V& below, std::integer_sequence<int, lane...>) {
  constexpr int count = sizeof...(lane);
  const V first = __builtin_shufflevector(above, below, ((lane & width) ? count + lane - width : lane)...);
  below = __builtin_shufflevector(above, below, ((lane & width) ? count + lane : lane + width)...);
  above = first;
}

/// Transposes a square of lanes x lanes elements in registers.
template <class T, int width = lanes<T> / 2>
inline void transpose(Vector<T> (&rows)[lanes<T>]) {
#pragma GCC unroll 16
  for (int i = 0; i < lanes<T>; ++i)
    if ((i & width) == 0)
      exchange_blocks<Vector<T>, width>(rows[i], rows[i + width], std::make_integer_sequence<int, lanes<T>>{});
  if constexpr (width > 1) transpose<T, width / 2>(rows);
}

}  // namespace imgrec::cpu
