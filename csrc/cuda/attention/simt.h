// The steps of the exact kernels: products of 64 x 64 tiles by 256 threads, and tiles of scores and of their gradients.
//
// Thread (y, x) of 16 x 16 holds the 4 x 4 elements (4 y + i, 4 x + j) of a tile in registers: two loads of four
// numbers from shared memory serve 16 multiplications. Operands come from global memory in chunks that fit into 48 KB
// together with one tile of weights, whatever the head size.
#pragma once

#include "cuda/arch/pack.h"
#include "cuda/attention/problem.h"

namespace imgrec::cuda {

constexpr int simt_tile = 64, simt_threads = 256;
constexpr int simt_stride = simt_tile + 4;  // 4: eight columns of a chunk are written to different banks

/// Rows of a chunk.
template <class T>
constexpr int simt_depth = sizeof(T) == 8 ? 8 : 32;

/// 64-column blocks of a result that a thread sums at once: with more columns, several blocks of threads share a row.
template <class T>
constexpr int simt_columns = sizeof(T) == 8 ? 1 : 2;

template <class T>
struct SimtMemory {
  T weights[simt_tile][simt_stride];
  T left[simt_depth<T>][simt_stride], right[simt_depth<T>][simt_stride];
};

__device__ __forceinline__ int simt_y() { return static_cast<int>(threadIdx.x) / 16; }
__device__ __forceinline__ int simt_x() { return static_cast<int>(threadIdx.x) % 16; }

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }

/// sums[i][j] += left[4 y + i] right[4 x + j]
template <class T>
__device__ __forceinline__ void add_products(T (&sums)[4][4], const T* left, const T* right) {
  const auto a = load_pack<T, 4>(left + 4 * simt_y()), b = load_pack<T, 4>(right + 4 * simt_x());
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] += a.values[i] * b.values[j];
}

/// chunk[d][row] = rows[row][first + d], zero past the last row. A warp reads eight columns of four rows: whole sectors
/// of memory, and different banks.
template <class S>
__device__ __forceinline__ void load_transposed(Compute<S> (&chunk)[simt_depth<Compute<S>>][simt_stride],
                                                const RowTile<const S>& rows, int first, int width) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int row = thread / 8; row < simt_tile; row += simt_threads / 8)
    for (int d = thread % 8; d < width; d += 8)
      chunk[d][row] = row < rows.count ? widen(rows.data[row * rows.stride + first + d]) : Compute<S>(0);
}

/// sums[i][j] += rows 4 y + i of `left` times rows 4 x + j of `right`, both of `size` columns.
template <class S>
__device__ void multiply_rows(Compute<S> (&sums)[4][4], SimtMemory<Compute<S>>& memory, const RowTile<const S>& left,
                              const RowTile<const S>& right, int size) {
  constexpr int depth = simt_depth<Compute<S>>;
  for (int first = 0; first < size; first += depth) {
    const int width = min(depth, size - first);
    __syncthreads();  // what was there has been read
    load_transposed<S>(memory.left, left, first, width);
    load_transposed<S>(memory.right, right, first, width);
    __syncthreads();
#pragma unroll 8
    for (int d = 0; d < width; ++d) add_products(sums, memory.left[d], memory.right[d]);
  }
}

/// Hands the threads' elements to multiply_weights: as weights[4 y + i][4 x + j], or transposed.
template <bool transposed, class T>
__device__ void store_weights(SimtMemory<T>& memory, const T (&tile)[4][4]) {
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    Pack<T, 4> pack;
#pragma unroll
    for (int j = 0; j < 4; ++j) pack.values[j] = transposed ? tile[j][i] : tile[i][j];
    if (transposed)
      store_pack(&memory.weights[4 * simt_x() + i][4 * simt_y()], pack);
    else
      store_pack(&memory.weights[4 * simt_y() + i][4 * simt_x()], pack);
  }
}

/// sums[c][i][j] += column 4 y + i of the stored weights times column first + 64 c + 4 x + j of `rows`.
template <class S, int columns>
__device__ void multiply_weights(Compute<S> (&sums)[columns][4][4], SimtMemory<Compute<S>>& memory,
                                 const RowTile<const S>& rows, int first, int size) {
  constexpr int depth = simt_depth<Compute<S>>;
  const int column = static_cast<int>(threadIdx.x) % simt_tile;
#pragma unroll
  for (int c = 0; c < columns; ++c) {
    const int begin = first + c * simt_tile;
    if (begin < size) {
      for (int row = 0; row < rows.count; row += depth) {
        const int height = min(depth, rows.count - row);
        __syncthreads();
        for (int k = static_cast<int>(threadIdx.x) / simt_tile; k < height; k += simt_threads / simt_tile)
          memory.right[k][column] =
              begin + column < size ? widen(rows.data[(row + k) * rows.stride + begin + column]) : Compute<S>(0);
        __syncthreads();
#pragma unroll 8
        for (int k = 0; k < height; ++k) add_products(sums[c], memory.weights[row + k], memory.right[k]);
      }
    }
  }
}

/// Writes factors[i] * sums[c][i][j] to row 4 y + i, column first + 64 c + 4 x + j.
template <class S, int columns>
__device__ void write_rows(const RowTile<S>& to, const Compute<S> (&sums)[columns][4][4],
                           const Compute<S> (&factors)[4], int first, int size) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int c = 0; c < columns; ++c)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = 4 * simt_y() + i, column = first + c * simt_tile + 4 * simt_x() + j;
        if (row < to.count && column < size) to.data[row * to.stride + column] = narrow<S>(factors[i] * sums[c][i][j]);
      }
}

/// From products of queries and keys to scores; -inf where a key is not seen.
template <class S>
__device__ void finish_scores(Compute<S> (&scores)[4][4], const ScoreMatrix<S>& matrix, std::int64_t query,
                              std::int64_t key) {
  const auto scale = static_cast<Compute<S>>(matrix.rules.scale);
  const S* mask = static_cast<const S*>(matrix.rules.mask);
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::int64_t q = query + 4 * simt_y() + i, k = key + 4 * simt_x() + j;
      const bool visible = matrix.visible(q, k);
      const Compute<S> added = visible && matrix.additive() ? widen(mask[matrix.mask_at(q, k)]) : Compute<S>(0);
      scores[i][j] = visible ? scores[i][j] * scale + added : -infinity();
    }
}

/// Which of the thread's elements dropout keeps: bit 4 i + j; all of them without dropout.
template <class S>
__device__ std::uint32_t kept_bits(const ScoreMatrix<S>& matrix, std::int64_t query, std::int64_t key) {
  if (!matrix.rules.state) return 0xFFFFu;
  Dropout dropout(matrix.rules);
  std::uint32_t bits = 0;
#pragma unroll 1
  for (int k = 0; k < 16; ++k) {
    const std::int64_t row = matrix.row(query + 4 * simt_y() + k / 4);
    bits |= static_cast<std::uint32_t>(dropout.keeps(row * matrix.rules.shape.keys + key + 4 * simt_x() + k % 4)) << k;
  }
  return bits;
}

/// Where the gradient of a score comes from.
template <class S>
struct GradientInputs {
  Rows<const S> query, key, value, dout;
  const Compute<S>*lse, *delta;  // see RowStatistics
};

/// weights = exp(score - lse), times dropout's factor, and dscores = exp(score - lse) (dout value^T factor - delta) of
/// the tile at (query, key).
template <class S>
__device__ void gradient_tile(Compute<S> (&weights)[4][4], Compute<S> (&dscores)[4][4], SimtMemory<Compute<S>>& memory,
                              const ScoreMatrix<S>& matrix, const GradientInputs<S>& inputs, std::int64_t query,
                              std::int64_t key) {
  using T = Compute<S>;
  const ScoreRules& rules = matrix.rules;
  const std::int64_t kv_head = matrix.kv_head();
#pragma unroll
  for (int i = 0; i < 16; ++i) weights[i / 4][i % 4] = dscores[i / 4][i % 4] = 0;
  multiply_rows<S>(weights, memory, inputs.query.tile(matrix.sample, matrix.head, query, simt_tile),
                   inputs.key.tile(matrix.sample, kv_head, key, simt_tile), static_cast<int>(rules.shape.head_size));
  multiply_rows<S>(dscores, memory, inputs.dout.tile(matrix.sample, matrix.head, query, simt_tile),
                   inputs.value.tile(matrix.sample, kv_head, key, simt_tile), static_cast<int>(rules.shape.value_size));
  finish_scores<S>(weights, matrix, query, key);
  const std::uint32_t kept = kept_bits<S>(matrix, query, key);
  const auto scale = static_cast<T>(rules.kept_scale);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::int64_t row = query + 4 * simt_y() + i;
    const bool exists = row < rules.shape.queries;
    const T lse = exists ? inputs.lse[matrix.row(row)] : T(0), delta = exists ? inputs.delta[matrix.row(row)] : T(0);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const T weight = exponential(weights[i][j] - lse), factor = kept >> (4 * i + j) & 1 ? scale : T(0);
      weights[i][j] = weight * factor;
      dscores[i][j] = weight * (dscores[i][j] * factor - delta);
    }
  }
}

}  // namespace imgrec::cuda
