// Sums and maxima along contiguous memory, in an order that depends on the length alone.
#pragma once

#include <limits>

#include "cpu/vector_io.h"

namespace imgrec::cpu {

/// Several folds of a row in one pass: `combine` joins, lane by lane, what term(i, count) gives for the vectors at
/// i = 0, wide_lanes<S>, ... < length; lanes beyond `count` are left out. `start` is what combine leaves unchanged.
template <class S, int folds, class Combine, class Term>
inline Vectors<Compute<S>, folds> fold_vectors(std::int64_t length, Compute<S> start, Combine&& combine, Term&& term) {
  using T = Compute<S>;
  constexpr int in_flight = 4, step = in_flight * wide_lanes<S>;
  Vectors<T, folds> part[in_flight];
  for (auto& vectors : part)
    for (auto& vector : vectors.at) vector = broadcast(start);
  std::int64_t i = 0;
  for (; i + step <= length; i += step)
#pragma GCC unroll 4
    for (int v = 0; v < in_flight; ++v) {
      const Vectors<T, folds> terms = term(i + v * wide_lanes<S>, WholeVector<S>{});
      for (int f = 0; f < folds; ++f) part[v].at[f] = combine(part[v].at[f], terms.at[f]);
    }
  for_vectors<S>(i, length, [&](std::int64_t at, int count) {
    const Vectors<T, folds> terms = term(at, count);
    for (int f = 0; f < folds; ++f)
      part[0].at[f] = combine(part[0].at[f], select_first<T>(count, terms.at[f], broadcast(start)));
  });
  for (int f = 0; f < folds; ++f)
    part[0].at[f] = combine(combine(part[0].at[f], part[1].at[f]), combine(part[2].at[f], part[3].at[f]));
  return part[0];
}

template <class S, class Term>
inline Compute<S> row_sum(std::int64_t length, Term&& term) {
  using T = Compute<S>;
  const auto add = [](Vector<T> a, Vector<T> b) { return a + b; };
  return horizontal_sum<T>(fold_vectors<S, 1>(length, T(0), add, [&](std::int64_t i, auto count) {
                             return Vectors<T, 1>{term(i, count)};
                           }).at[0]);
}

template <class T>
struct TwoSums {
  T first, second;
};

/// Two sums in one pass: term(i, count) gives a vector for each.
template <class S, class Term>
inline TwoSums<Compute<S>> two_row_sums(std::int64_t length, Term&& term) {
  using T = Compute<S>;
  const auto add = [](Vector<T> a, Vector<T> b) { return a + b; };
  const Vectors<T, 2> sums = fold_vectors<S, 2>(length, T(0), add, term);
  return {horizontal_sum<T>(sums.at[0]), horizontal_sum<T>(sums.at[1])};
}

template <class S>
inline Compute<S> row_max(const S* row, std::int64_t length) {
  using T = Compute<S>;
  const auto greater = [](Vector<T> a, Vector<T> b) { return maximum(a, b); };
  const auto read = [row](std::int64_t i, auto count) { return Vectors<T, 1>{load_wide(row + i, count)}; };
  return horizontal_max<T>(fold_vectors<S, 1>(length, -std::numeric_limits<T>::infinity(), greater, read).at[0]);
}

}  // namespace imgrec::cpu
