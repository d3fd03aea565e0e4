// Sums and maxima along contiguous memory, in an order that depends on the length alone.
#pragma once

#include <limits>

#include "cpu/vector_io.h"

namespace imgrec::cpu {

/// Folds the vectors term(i, count), i = 0, wide_lanes<S>, ... < length, into one; what a term holds beyond `count`
/// lanes is left out. `start` is what combine leaves unchanged.
template <class S, class Combine, class Term>
inline Vector<Compute<S>> fold_vectors(std::int64_t length, Compute<S> start, Combine&& combine, Term&& term) {
  using T = Compute<S>;
  constexpr int step = 4 * wide_lanes<S>;  // four operations in flight at once
  Vector<T> part[4];
  for (auto& p : part) p = broadcast(start);
  std::int64_t i = 0;
  for (; i + step <= length; i += step)
    for (int v = 0; v < 4; ++v) part[v] = combine(part[v], term(i + v * wide_lanes<S>, wide_lanes<S>));
  for_vectors<S>(i, length, [&](std::int64_t at, int count) {
    const Vector<T> last = term(at, count);
    Vector<T> kept = broadcast(start);
    std::memcpy(&kept, &last, sizeof(T) * static_cast<std::size_t>(count));
    part[0] = combine(part[0], kept);
  });
  return combine(combine(part[0], part[1]), combine(part[2], part[3]));
}

template <class S, class Term>
inline Compute<S> row_sum(std::int64_t length, Term&& term) {
  using T = Compute<S>;
  return horizontal_sum<T>(fold_vectors<S>(length, T(0), [](Vector<T> a, Vector<T> b) { return a + b; }, term));
}

template <class S>
inline Compute<S> row_max(const S* row, std::int64_t length) {
  using T = Compute<S>;
  return horizontal_max<T>(fold_vectors<S>(
      length, -std::numeric_limits<T>::infinity(), [](Vector<T> a, Vector<T> b) { return maximum(a, b); },
      [row](std::int64_t i, int count) { return load_wide(row + i, count); }));
}

}  // namespace imgrec::cpu
