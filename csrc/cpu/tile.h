// Small matrix products on tiles that lie in the caches, and transposition between rows and lanes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "cpu/simd.h"
#include "cpu/vector_io.h"

namespace imgrec::cpu {

enum class Operand { plain, transposed };

/// c (rows, columns) = or += a b, with b (depth, columns) and c in memory padded to whole vectors of columns.
/// a is (rows, depth), or (depth, rows) where transposed; its elements are broadcast, so it needs no packing.
/// Each element is one sum in the order of depth, whatever the tile's extent.
template <class T, Operand a_operand>
void multiply_tile(std::int64_t rows, std::int64_t columns, std::int64_t depth, const T* a, std::int64_t lda,
                   const T* b, std::int64_t ldb, T* c, std::int64_t ldc, bool add);

namespace detail {

template <class V, std::size_t... i>
inline V interleave_low(V a, V b, std::index_sequence<i...>) {
  return __builtin_shufflevector(a, b, (i / 2 + i % 2 * sizeof...(i))...);
}

template <class V, std::size_t... i>
inline V interleave_high(V a, V b, std::index_sequence<i...>) {
  return __builtin_shufflevector(a, b, (sizeof...(i) / 2 + i / 2 + i % 2 * sizeof...(i))...);
}

}  // namespace detail

/// Transposes a square of lanes<T> vectors: each round interleaves the halves, which rotates the bits of an index.
template <class T>
inline void transpose_square(Vector<T> (&v)[lanes<T>]) {
  constexpr int half = lanes<T> / 2;
  constexpr auto order = std::make_index_sequence<lanes<T>>{};
#pragma GCC unroll 4
  for (int round = 1; round < lanes<T>; round *= 2) {
    Vector<T> next[lanes<T>];
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      next[2 * i] = detail::interleave_low(v[i], v[i + half], order);
      next[2 * i + 1] = detail::interleave_high(v[i], v[i + half], order);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes<T>; ++i) v[i] = next[i];
  }
}

}  // namespace imgrec::cpu
