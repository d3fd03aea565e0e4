// Attention's forward pass without tensor cores: float32 and float64, and 16-bit types with large heads, in float32.
//
//   query (N, S_q, H, D), key (N, S_k, H_kv, D), value (N, S_k, H_kv, E), out (N, S_q, H, E), lse (N, H, S_q)
//
// A block owns 64 queries of one sample and head and goes over the keys in tiles of 64, those after the diagonal left
// out. For each query it keeps the greatest score m so far, l = sum exp(score - m) and o = sum exp(score - m) value:
//
//   m' = max(m, max of the tile)     l' = l e^(m - m') + sum e^(s - m')     o' = o e^(m - m') + e^(s - m') V
//
// and at the end out = o / l, lse = m + log l. 256 threads hold 4 x 4 scores and 4 x 4 sums per 64 columns of o each
// (simt.h); a query's row lies in 16 neighbouring lanes, so its maximum and sum are shuffles. Blocks along z share a
// row of more than 128 columns (float64: 64), each with all scores: the recurrences are cheap beside the products.
// Shared memory: 34 KB (float64: 43 KB). Registers: 128 (float64: 174 on sm_80, 190 on sm_90a), no spills.
// Measured share of the peer: not run on a GPU.
#include <algorithm>

#include "cuda/attention/attention.h"
#include "cuda/attention/simt.h"

namespace imgrec::cuda {
namespace {

template <class T>
struct Softmax {
  T maximum[4], total[4];
};

/// Scores become weights relative to the new maximum; `rescale` is what older sums are multiplied by.
template <class T>
__device__ __forceinline__ void update_softmax(Softmax<T>& softmax, T (&scores)[4][4], T (&rescale)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T greatest = warp_max<16>(max(max(scores[i][0], scores[i][1]), max(scores[i][2], scores[i][3])));
    const T maximum = max(softmax.maximum[i], greatest);
    const T reference = maximum == -infinity() ? T(0) : maximum;  // nothing seen yet: exp(-inf - 0) = 0, not NaN
    rescale[i] = exponential(softmax.maximum[i] - reference);
    T sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      scores[i][j] = exponential(scores[i][j] - reference);
      sum += scores[i][j];
    }
    softmax.total[i] = softmax.total[i] * rescale[i] + warp_sum<16>(sum);
    softmax.maximum[i] = maximum;
  }
}

template <class S>
__global__ void __launch_bounds__(simt_threads, sizeof(S) == 8 ? 1 : 2)
    forward_kernel(Rows<S> out, Compute<S>* lse, ScoreRules rules, Rows<const S> query, Rows<const S> key,
                   Rows<const S> value) {
  using T = Compute<S>;
  constexpr int columns = simt_columns<T>;
  SHARED(SimtMemory<T>, memory, );
  const ScoreMatrix<S> matrix{rules, blockIdx.x / rules.shape.heads, blockIdx.x % rules.shape.heads};
  // Under causality the last queries have the most keys: they start first.
  const std::int64_t first = static_cast<std::int64_t>(gridDim.y - 1 - blockIdx.y) * simt_tile;
  const int first_column = static_cast<int>(blockIdx.z) * columns * simt_tile;
  const int head_size = static_cast<int>(rules.shape.head_size), value_size = static_cast<int>(rules.shape.value_size);
  const RowTile<const S> queries = query.tile(matrix.sample, matrix.head, first, simt_tile);
  const std::int64_t end = matrix.visible_keys(first + queries.count);
  T sums[columns][4][4] = {};
  Softmax<T> softmax;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    softmax.maximum[i] = -infinity();
    softmax.total[i] = 0;
  }
  for (int at = 0; at < end; at += simt_tile) {
    T scores[4][4] = {}, rescale[4];
    multiply_rows<S>(scores, memory, queries, key.tile(matrix.sample, matrix.kv_head(), at, simt_tile), head_size);
    finish_scores<S>(scores, matrix, first, at);
    update_softmax(softmax, scores, rescale);
    if (rules.state) {
      const std::uint32_t kept = kept_bits<S>(matrix, first, at);
      const auto scale = static_cast<T>(rules.kept_scale);
#pragma unroll
      for (int k = 0; k < 16; ++k) scores[k / 4][k % 4] *= kept >> k & 1 ? scale : T(0);
    }
#pragma unroll
    for (int k = 0; k < columns * 16; ++k) sums[k / 16][k / 4 % 4][k % 4] *= rescale[k / 4 % 4];
    store_weights<true>(memory, scores);
    multiply_weights<S>(sums, memory, value.tile(matrix.sample, matrix.kv_head(), at, simt_tile), first_column,
                        value_size);
  }
  T factors[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    factors[i] = softmax.total[i] == 0 ? T(0) : 1 / softmax.total[i];
    const int row = 4 * simt_y() + i;
    if (blockIdx.z == 0 && simt_x() == 0 && row < queries.count)
      lse[matrix.row(first + row)] = softmax.maximum[i] + logarithm(softmax.total[i]);
  }
  write_rows<S>(out.tile(matrix.sample, matrix.head, first, simt_tile), sums, factors, first_column, value_size);
}

}  // namespace

void attention_forward_simt(const Context& context, const Array& out, const Array& lse, const AttentionInputs& inputs) {
  const AttentionShape shape = attention_shape(inputs);
  for_floating(out.dtype, [&](auto type) {
    using S = decltype(type);
    constexpr int columns = simt_columns<Compute<S>> * simt_tile;
    const dim3 blocks(static_cast<unsigned>(shape.batch * shape.heads),
                      static_cast<unsigned>((shape.queries + simt_tile - 1) / simt_tile),
                      static_cast<unsigned>(std::max(std::int64_t(1), (shape.value_size + columns - 1) / columns)));
    LAUNCH((forward_kernel<S>), context, {.blocks = blocks, .threads = simt_threads}, Rows<S>(out),
           lse.as<Compute<S>>(), ScoreRules(inputs), Rows<const S>(inputs.query), Rows<const S>(inputs.key),
           Rows<const S>(inputs.value));
  });
}

}  // namespace imgrec::cuda
