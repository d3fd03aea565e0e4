// Kernels that reduce rows of a contiguous matrix and then write rows: a warp works on a short row and a block on a
// long one. The first elements of a row stay in registers, so that rows of up to 16 numbers a thread are read from
// memory once.
#pragma once

#include "cuda/arch/pack.h"
#include "cuda/arch/warp.h"

namespace imgrec::cuda {

constexpr int row_block_threads = 256;
constexpr int warp_lanes = 32;

/// How many runs of each array a thread keeps: 16 numbers of 16 or 32 bits, 4 of float64.
template <class T>
constexpr int kept_runs = sizeof(T) == 4 ? 4 : 2;

/// What the `threads` threads of a row have, added up, and the greatest of it, for all of them.
template <int threads, class T>
__device__ __forceinline__ T row_sum(T part) {
  if constexpr (threads == warp_lanes)
    return warp_sum(part);
  else
    return block_sum(part);
}
template <int threads, class T>
__device__ __forceinline__ T row_max(T part) {
  if constexpr (threads == warp_lanes)
    return warp_max(part);
  else
    return block_max(part);
}

/// The elements of rows of `arrays` matrices that belong to one of the `threads` threads that share a row. They come in
/// runs of neighbours, each as long as a pack, but of one element where that would leave lanes without work.
template <class T, int threads, int arrays, int kept = kept_runs<T>>
class RowReader {
 public:
  static constexpr int width = pack_width<T>;
  using Run = Pack<T, width>;

  template <class... Rows>
  __device__ __forceinline__ RowReader(std::int64_t length, bool aligned, Rows... rows)
      : from_{rows...}, length_(length), run_(length < warp_lanes * width ? 1 : width), aligned_(aligned) {
#pragma unroll
    for (int j = 0; j < kept; ++j) load(kept_[j], first() + j * step());
  }

  /// body(i, count, runs...): the elements i ... i + count - 1 of each row.
  template <class Body>
  __device__ __forceinline__ void for_each_run(Body&& body) const {
#pragma unroll
    for (int j = 0; j < kept; ++j)
      if (first() + j * step() < length_) visit(body, first() + j * step(), kept_[j]);
#pragma unroll 1
    for (std::int64_t i = first() + kept * step(); i < length_; i += step()) {
      Run runs[arrays];
      load(runs, i);
      visit(body, i, runs);
    }
  }

  /// body(i, values...) for each element.
  template <class Body>
  __device__ __forceinline__ void for_each(Body&& body) const {
    for_each_run([&](std::int64_t i, int count, const auto&... runs) {
#pragma unroll
      for (int k = 0; k < width; ++k)
        if (k < count) body(i + k, widen(runs.values[k])...);
    });
  }

  /// to[i] = value(i, values...) for each element.
  template <class Value>
  __device__ __forceinline__ void write(T* to, Value&& value) const {
    for_each_run([&](std::int64_t i, int count, const auto&... runs) {
      Run result{};
#pragma unroll
      for (int k = 0; k < width; ++k)
        if (k < count) result.values[k] = narrow<T>(value(i + k, widen(runs.values[k])...));
      store_run(to + i, result, count, aligned_);
    });
  }

  /// The sum of term(i, values...) over the row, for every thread.
  template <class Term>
  __device__ __forceinline__ Compute<T> sum(Term&& term) const {
    Compute<T> part = 0;
    for_each([&](std::int64_t i, auto... values) { part += term(i, values...); });
    return row_sum<threads>(part);
  }

  /// The greatest element of the first array's row, for every thread.
  __device__ __forceinline__ Compute<T> max() const {
    Compute<T> part = -INFINITY;
    for_each([&](std::int64_t, Compute<T> value, auto...) { part = Maximum{}(part, value); });
    return row_max<threads>(part);
  }

 private:
  __device__ __forceinline__ std::int64_t first() const { return static_cast<int>(threadIdx.x) % threads * run_; }
  __device__ __forceinline__ int step() const { return threads * run_; }

  __device__ __forceinline__ int count(std::int64_t i) const {
    return static_cast<int>(length_ - i < run_ ? length_ - i : run_);
  }

  __device__ __forceinline__ void load(Run (&runs)[arrays], std::int64_t i) const {
#pragma unroll
    for (int a = 0; a < arrays; ++a)
      if (i < length_) runs[a] = load_run<T, width>(from_[a] + i, count(i), aligned_);
  }

  template <class Body>
  __device__ __forceinline__ void visit(Body& body, std::int64_t i, const Run (&runs)[arrays]) const {
    if constexpr (arrays == 1)
      body(i, count(i), runs[0]);
    else
      body(i, count(i), runs[0], runs[1]);
  }

  const T* from_[arrays];
  std::int64_t length_;
  int run_;
  bool aligned_;
  Run kept_[kept][arrays];
};

/// Calls body(row) for every row of the grid's share, by all threads that work on it.
template <int threads, class Body>
__device__ __forceinline__ void for_rows(std::int64_t rows, Body&& body) {
  constexpr int rows_a_block = row_block_threads / threads;
  std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * rows_a_block + threadIdx.x / threads;
  for (; row < rows; row += static_cast<std::int64_t>(gridDim.x) * rows_a_block) body(row);
}

/// Calls body(threads, config): how many threads work on a row of that length, and the launch for all rows.
template <class T, class Body>
void for_row_threads(const Context& context, std::int64_t rows, std::int64_t length, Body&& body) {
  constexpr int rows_a_block = row_block_threads / warp_lanes;
  if (length <= warp_lanes * pack_width<T> * kept_runs<T>)
    body(Constant<warp_lanes>{}, filling_config(context, (rows + rows_a_block - 1) / rows_a_block, row_block_threads));
  else
    body(Constant<row_block_threads>{}, filling_config(context, rows, row_block_threads));
}

/// Whether each of these rows can be read and written in packs.
template <class T, class... Pointers>
bool rows_aligned(std::int64_t length, Pointers... pointers) {
  return length % pack_width<T> == 0 && aligned_for_packs(pointers...);
}

}  // namespace imgrec::cuda
