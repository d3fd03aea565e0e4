// Attention's backward pass without tensor cores: float32 and float64, and 16-bit types with large heads, in float32.
//
//   dquery, dkey, dvalue like query (N, S_q, H, D), key (N, S_k, H_kv, D), value (N, S_k, H_kv, E); dout (N, S_q, H, E)
//
// With P = exp(score - lse), Z the dropout's factors and delta = rowsum(dout out):
//
//   dS = P (Z (dout V^T) - delta)     dV = (P Z)^T dout     dK = scale dS^T Q     dQ = scale dS K
//
// Tiles of P and dS are 64 x 64 and computed anew where they are needed, in registers (simt.h): a block of the first
// kernel owns 64 keys and sums dK and dV over all queries of the heads that share them, a block of the second owns 64
// queries and sums dQ over all keys. Seven products instead of five, but nothing is added by two blocks: no atomics,
// one order of every sum. Tiles after the diagonal are left out. Blocks along z share results of more than 128 columns
// (float64: 64). Shared memory: 34 KB (float64: 43 KB). Registers: 231 for keys and values
// (float64: 254), 177 for queries (float64: 226). Measured share of the peer: not run on a GPU.
#include <algorithm>

#include "cuda/attention/attention.h"
#include "cuda/attention/simt.h"

namespace imgrec::cuda {
namespace {

template <class S>
__global__ void __launch_bounds__(simt_threads)
    key_value_kernel(Rows<S> dkey, Rows<S> dvalue, ScoreRules rules, GradientInputs<S> inputs) {
  using T = Compute<S>;
  constexpr int columns = simt_columns<T>;
  SHARED(SimtMemory<T>, memory, );
  const std::int64_t sample = blockIdx.x / rules.shape.kv_heads, kv_head = blockIdx.x % rules.shape.kv_heads;
  const std::int64_t group = rules.shape.heads / rules.shape.kv_heads;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * simt_tile;
  const int first_column = static_cast<int>(blockIdx.z) * columns * simt_tile;
  const int head_size = static_cast<int>(rules.shape.head_size), value_size = static_cast<int>(rules.shape.value_size);
  T key_sums[columns][4][4] = {}, value_sums[columns][4][4] = {};
  for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const ScoreMatrix<S> matrix{rules, sample, head};
    for (std::int64_t at = rules.causal ? first : 0; at < rules.shape.queries; at += simt_tile) {
      T weights[4][4], dscores[4][4];
      gradient_tile<S>(weights, dscores, memory, matrix, inputs, at, first);
      store_weights<false>(memory, weights);
      multiply_weights<S>(value_sums, memory, inputs.dout.tile(sample, head, at, simt_tile), first_column, value_size);
      store_weights<false>(memory, dscores);
      multiply_weights<S>(key_sums, memory, inputs.query.tile(sample, head, at, simt_tile), first_column, head_size);
    }
  }
  const auto scale = static_cast<T>(rules.scale);
  const T key_factors[4] = {scale, scale, scale, scale}, value_factors[4] = {1, 1, 1, 1};
  write_rows<S>(dkey.tile(sample, kv_head, first, simt_tile), key_sums, key_factors, first_column, head_size);
  write_rows<S>(dvalue.tile(sample, kv_head, first, simt_tile), value_sums, value_factors, first_column, value_size);
}

template <class S>
__global__ void __launch_bounds__(simt_threads)
    query_kernel(Rows<S> dquery, ScoreRules rules, GradientInputs<S> inputs) {
  using T = Compute<S>;
  constexpr int columns = simt_columns<T>;
  SHARED(SimtMemory<T>, memory, );
  const ScoreMatrix<S> matrix{rules, blockIdx.x / rules.shape.heads, blockIdx.x % rules.shape.heads};
  // Under causality the last queries have the most keys: they start first.
  const std::int64_t first = static_cast<std::int64_t>(gridDim.y - 1 - blockIdx.y) * simt_tile;
  const int first_column = static_cast<int>(blockIdx.z) * columns * simt_tile;
  const int head_size = static_cast<int>(rules.shape.head_size);
  const std::int64_t end = matrix.visible_keys(min(first + simt_tile, rules.shape.queries));
  T sums[columns][4][4] = {};
  for (std::int64_t at = 0; at < end; at += simt_tile) {
    T weights[4][4], dscores[4][4];
    gradient_tile<S>(weights, dscores, memory, matrix, inputs, first, at);
    store_weights<true>(memory, dscores);
    multiply_weights<S>(sums, memory, inputs.key.tile(matrix.sample, matrix.kv_head(), at, simt_tile), first_column,
                        head_size);
  }
  const auto scale = static_cast<T>(rules.scale);
  const T factors[4] = {scale, scale, scale, scale};
  write_rows<S>(dquery.tile(matrix.sample, matrix.head, first, simt_tile), sums, factors, first_column, head_size);
}

/// The grid for rows of sequences: all heads along x, tiles of 64 rows along y, ranges of columns along z.
dim3 grid(std::int64_t heads, std::int64_t rows, std::int64_t columns, std::int64_t columns_each) {
  return dim3(static_cast<unsigned>(heads), static_cast<unsigned>((rows + simt_tile - 1) / simt_tile),
              static_cast<unsigned>((columns + columns_each - 1) / columns_each));
}

}  // namespace

void attention_backward_simt(const Context& context, const Array& dquery, const Array& dkey, const Array& dvalue,
                             const Array& dout, const Array& out, const Array& lse, const AttentionInputs& inputs,
                             const Array& workspace) {
  const AttentionShape shape = attention_shape(inputs);
  for_floating(out.dtype, [&](auto type) {
    using S = decltype(type);
    using T = Compute<S>;
    constexpr int columns = simt_columns<T> * simt_tile;
    const auto statistics = row_statistics<S>(context, workspace, dout, out, lse, 1);
    const GradientInputs<S> all{Rows<const S>(inputs.query),
                                Rows<const S>(inputs.key),
                                Rows<const S>(inputs.value),
                                Rows<const S>(dout),
                                statistics.lse,
                                statistics.delta};
    if (dkey.size() > 0 || dvalue.size() > 0)
      LAUNCH((key_value_kernel<S>), context,
             {.blocks =
                  grid(shape.batch * shape.kv_heads, shape.keys, std::max(shape.head_size, shape.value_size), columns),
              .threads = simt_threads},
             Rows<S>(dkey), Rows<S>(dvalue), ScoreRules(inputs), all);
    if (dquery.size() > 0)
      LAUNCH(
          (query_kernel<S>), context,
          {.blocks = grid(shape.batch * shape.heads, shape.queries, shape.head_size, columns), .threads = simt_threads},
          Rows<S>(dquery), ScoreRules(inputs), all);
  });
}

}  // namespace imgrec::cuda
