// Attention's backward pass on tensor cores, for bfloat16 and float16 and heads of up to 256.
//
//   dquery, dkey, dvalue like query (N, S_q, H, D), key (N, S_k, H_kv, D), value (N, S_k, H_kv, E); dout (N, S_q, H, E)
//
// The mathematics is backward_simt.cu's, and so is the division of work: a block of four warps owns 64 keys and streams
// the queries of all heads that share them (dK, dV), or owns 64 queries and streams keys (dQ); nothing is added by two
// blocks. Both kernels do one thing at each tile (tensor_core.h): strips of scores and of dout V^T, from them P and dS
// in registers, with keys as rows in the first kernel, so that P^T and dS^T are what is multiplied next.
//
//   keys as rows      S^T = K Q^T     dP^T = V dout^T     dV += (P Z)^T dout     dK += dS^T Q
//   queries as rows   S = Q K^T       dP = dout V^T       dQ += dS K
//
// A warp's sums are in registers: 16 x Size for dQ; 16 x min(Size, 128) twice for dK and dV, and two blocks along z
// where Size is 256. Streamed tiles have 64 rows, or 32 where Size is 128 or 256, in two stages where these fit into 99
// KB. Shared memory: 49, 65, 97 KB for Size 64, 128, 256. Registers on compute capability 8.0, no spills: 246, 255, 255
// for keys and values; 193, 187, 238 for queries. Measured share of the peer: not run on a GPU.
#include "cuda/attention/attention.h"
#include "cuda/attention/tensor_core.h"

namespace imgrec::cuda {
namespace {

template <int Size>
constexpr int streamed_rows = Size == 64 ? 64 : 32;
template <int Size>
constexpr int stages = Size == 256 ? 1 : 2;

/// A block's shared memory: the rows it owns, of two arrays, and the tiles it streams past them.
template <class T, int Size>
struct Memory {
  struct Stage {
    T first[streamed_rows<Size> * Size], second[streamed_rows<Size> * Size];
  };
  T first[block_rows * Size], second[block_rows * Size];
  Stage stages[cuda::stages<Size>];
  // Of the queries: of one stage each where queries are streamed, else of all.
  float lse[2][block_rows], delta[2][block_rows];
};

template <class T>
struct Inputs {
  Rows<const T> query, key, value, dout;
  RowStatistics<float> statistics;
  bool aligned;
};

/// Starts to copy lse and delta of `count` queries from `query` on; zero past the last query.
template <class T>
__device__ __forceinline__ void load_statistics(float* lse, float* delta, const RowStatistics<float>& statistics,
                                                const ScoreMatrix<T>& matrix, std::int64_t query, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= count) return;
  const bool exists = query + i < matrix.rules.shape.queries;
  const std::int64_t at = matrix.row(exists ? query + i : 0);
  copy_async_or_zero<4>(lse + i, statistics.lse + at, exists);
  copy_async_or_zero<4>(delta + i, statistics.delta + at, exists);
}

/// Scores and products of dout and values become weights = P Z and dscores = dS. lse and delta begin at the strip's
/// first query.
template <bool KeysAreRows, int Columns>
__device__ __forceinline__ void finish_gradients(float (&weights)[Columns / 8][4], float (&dscores)[Columns / 8][4],
                                                 const float* lse, const float* delta, std::uint32_t kept,
                                                 float kept_scale) {
#pragma unroll
  for (int n = 0; n < Columns / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int query = KeysAreRows ? strip_column(n, i) : strip_row(i);
      const float weight = exp2f(weights[n][i] - lse[query]), factor = kept >> (4 * n + i) & 1 ? kept_scale : 0.0f;
      weights[n][i] = weight * factor;
      dscores[n][i] = weight * (dscores[n][i] * factor - delta[query]);
    }
}

/// For each step `load(step, stage)` starts copies, a step ahead of `compute(step, stage)` where there are two stages.
template <int Stages, class Load, class Work>
__device__ __forceinline__ void stream(std::int64_t steps, const Load& load, const Work& compute) {
  if (steps > 0) load(0, 0);
  copy_async_commit();
  for (std::int64_t step = 0; step < steps; ++step) {
    if (Stages == 2) {
      if (step + 1 < steps) load(step + 1, static_cast<int>((step + 1) % 2));
      copy_async_commit();
    }
    copy_async_wait<Stages - 1>();
    __syncthreads();  // the stage is here
    compute(step, static_cast<int>(step % Stages));
    __syncthreads();  // it has been read
    if (Stages == 1) {
      if (step + 1 < steps) load(step + 1, 0);
      copy_async_commit();
    }
  }
  copy_async_wait<0>();
  __syncthreads();  // without steps: what a block owns is here
}

/// Goes through the queries of one head after the other. 32 bits (check_extents): wider ones do not fit into registers.
struct TileOfQueries {
  int head, query;

  __device__ __forceinline__ void advance(int rows, int first, std::int64_t end) {
    query += rows;
    if (query < end) return;
    query = first;
    ++head;
  }
};

template <class T, int Size>
__global__ void __launch_bounds__(tensor_core_threads, 1)
    key_value_kernel(Rows<T> dkey, Rows<T> dvalue, ScoreRules rules, Inputs<T> inputs, bool results_aligned) {
  constexpr int streamed = streamed_rows<Size>, columns = Size < 128 ? Size : 128;
  using Shared = Memory<T, Size>;
  DYN_SHARED(Shared, memory);
  const std::int64_t sample = blockIdx.x / rules.shape.kv_heads, kv_head = blockIdx.x % rules.shape.kv_heads;
  const std::int64_t group = rules.shape.heads / rules.shape.kv_heads;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * block_rows;
  const std::int64_t own_first = first + warp_number() * warp_rows;
  const int own = warp_number() * warp_rows * Size,
            first_column = Size > columns ? static_cast<int>(blockIdx.z) * columns : 0;
  const int head_size = static_cast<int>(rules.shape.head_size), value_size = static_cast<int>(rules.shape.value_size);
  const int first_query = rules.causal ? static_cast<int>(first) : 0;
  const std::int64_t tiles = max(std::int64_t(0), rules.shape.queries - first_query + streamed - 1) / streamed;
  TileOfQueries here{static_cast<int>(kv_head * group), first_query}, ahead = here;

  const auto scale = static_cast<float>(rules.scale), kept_scale = static_cast<float>(rules.kept_scale);
  float key_sums[columns / 8][4] = {}, value_sums[columns / 8][4] = {};
  load_tile<Size, block_rows>(memory->first, inputs.key.tile(sample, kv_head, first, block_rows), head_size,
                              inputs.aligned);
  load_tile<Size, block_rows>(memory->second, inputs.value.tile(sample, kv_head, first, block_rows), value_size,
                              inputs.aligned);
  stream<stages<Size>>(
      group * tiles,
      [&](std::int64_t, int stage) {
        auto& to = memory->stages[stage];
        load_tile<Size, streamed>(to.first, inputs.query.tile(sample, ahead.head, ahead.query, streamed), head_size,
                                  inputs.aligned);
        load_tile<Size, streamed>(to.second, inputs.dout.tile(sample, ahead.head, ahead.query, streamed), value_size,
                                  inputs.aligned);
        load_statistics(memory->lse[stage], memory->delta[stage], inputs.statistics,
                        ScoreMatrix<T>(rules, sample, ahead.head), ahead.query, streamed);
        ahead.advance(streamed, first_query, rules.shape.queries);
      },
      [&](std::int64_t, int stage) {
        const ScoreMatrix<T> matrix(rules, sample, here.head);
        const auto& from = memory->stages[stage];
        const StripRules strip = strip_rules<true, streamed>(matrix, own_first, here.query);
        float weights[streamed / 8][4] = {};
        multiply_tiles<Size, streamed>(weights, memory->first + own, from.first, head_size);
        finish_scores<true, streamed>(weights, matrix, own_first, here.query, strip.visible);
        float dscores[streamed / 8][4] = {};
        multiply_tiles<Size, streamed>(dscores, memory->second + own, from.second, value_size);
        finish_gradients<true, streamed>(weights, dscores, memory->lse[stage], memory->delta[stage], strip.kept,
                                         kept_scale);
        multiply_strip<Size, columns, streamed>(value_sums, weights, from.second, first_column, value_size);
        multiply_strip<Size, columns, streamed>(key_sums, dscores, from.first, first_column, head_size);
        here.advance(streamed, first_query, rules.shape.queries);
      });
  write_strip<Size, columns>(dkey.tile(sample, kv_head, own_first, warp_rows), memory->first + own, key_sums,
                             {scale, scale}, first_column, head_size, results_aligned);
  write_strip<Size, columns>(dvalue.tile(sample, kv_head, own_first, warp_rows), memory->second + own, value_sums,
                             {1, 1}, first_column, value_size, results_aligned);
}

template <class T, int Size>
__global__ void __launch_bounds__(tensor_core_threads, 1)
    query_kernel(Rows<T> dquery, ScoreRules rules, Inputs<T> inputs, bool results_aligned) {
  constexpr int streamed = streamed_rows<Size>;
  using Shared = Memory<T, Size>;
  DYN_SHARED(Shared, memory);
  const ScoreMatrix<T> matrix{rules, blockIdx.x / rules.shape.heads, blockIdx.x % rules.shape.heads};
  const std::int64_t sample = matrix.sample, head = matrix.head, kv_head = matrix.kv_head();
  // Under causality the last queries have the most keys: they start first.
  const std::int64_t first = static_cast<std::int64_t>(gridDim.y - 1 - blockIdx.y) * block_rows;
  const int own_row = warp_number() * warp_rows, own = own_row * Size;
  const int head_size = static_cast<int>(rules.shape.head_size), value_size = static_cast<int>(rules.shape.value_size);
  const std::int64_t end = matrix.visible_keys(min(first + block_rows, rules.shape.queries));

  const auto scale = static_cast<float>(rules.scale), kept_scale = static_cast<float>(rules.kept_scale);
  float sums[Size / 8][4] = {};
  load_tile<Size, block_rows>(memory->first, inputs.query.tile(sample, head, first, block_rows), head_size,
                              inputs.aligned);
  load_tile<Size, block_rows>(memory->second, inputs.dout.tile(sample, head, first, block_rows), value_size,
                              inputs.aligned);
  load_statistics(memory->lse[0], memory->delta[0], inputs.statistics, matrix, first, block_rows);
  stream<stages<Size>>(
      (end + streamed - 1) / streamed,
      [&](std::int64_t step, int stage) {
        auto& to = memory->stages[stage];
        load_tile<Size, streamed>(to.first, inputs.key.tile(sample, kv_head, step * streamed, streamed), head_size,
                                  inputs.aligned);
        load_tile<Size, streamed>(to.second, inputs.value.tile(sample, kv_head, step * streamed, streamed), value_size,
                                  inputs.aligned);
      },
      [&](std::int64_t step, int stage) {
        const auto& from = memory->stages[stage];
        const StripRules strip = strip_rules<false, streamed>(matrix, first + own_row, step * streamed);
        float weights[streamed / 8][4] = {};
        multiply_tiles<Size, streamed>(weights, memory->first + own, from.first, head_size);
        finish_scores<false, streamed>(weights, matrix, first + own_row, step * streamed, strip.visible);
        float dscores[streamed / 8][4] = {};
        multiply_tiles<Size, streamed>(dscores, memory->second + own, from.second, value_size);
        finish_gradients<false, streamed>(weights, dscores, memory->lse[0] + own_row, memory->delta[0] + own_row,
                                          strip.kept, kept_scale);
        multiply_strip<Size, Size, streamed>(sums, dscores, from.first, 0, head_size);
      });
  write_strip<Size, Size>(dquery.tile(sample, head, first + own_row, warp_rows), memory->first + own, sums,
                          {scale, scale}, 0, head_size, results_aligned);
}

unsigned tiles(std::int64_t rows) { return static_cast<unsigned>((rows + block_rows - 1) / block_rows); }

template <class T, int Size>
void launch_kernels(const Context& context, const Array& dquery, const Array& dkey, const Array& dvalue,
                    const AttentionInputs& inputs, const Inputs<T>& all) {
  const AttentionShape shape = attention_shape(inputs);
  constexpr auto shared_bytes = static_cast<int>(sizeof(Memory<T, Size>));
  const ScoreRules rules(inputs);
  if (dkey.size() > 0 || dvalue.size() > 0) {
    ALLOW_SHARED((key_value_kernel<T, Size>), shared_bytes);
    const dim3 blocks(static_cast<unsigned>(shape.batch * shape.kv_heads), tiles(shape.keys), Size > 128 ? 2 : 1);
    LAUNCH((key_value_kernel<T, Size>), context,
           {.blocks = blocks, .threads = tensor_core_threads, .shared_bytes = shared_bytes}, Rows<T>(dkey),
           Rows<T>(dvalue), rules, all, aligned_rows(dkey) && aligned_rows(dvalue));
  }
  if (dquery.size() > 0) {
    ALLOW_SHARED((query_kernel<T, Size>), shared_bytes);
    const dim3 blocks(static_cast<unsigned>(shape.batch * shape.heads), tiles(shape.queries));
    LAUNCH((query_kernel<T, Size>), context,
           {.blocks = blocks, .threads = tensor_core_threads, .shared_bytes = shared_bytes}, Rows<T>(dquery), rules,
           all, aligned_rows(dquery));
  }
}

}  // namespace

void attention_backward_tensor_core(const Context& context, const Array& dquery, const Array& dkey, const Array& dvalue,
                                    const Array& dout, const Array& out, const Array& lse,
                                    const AttentionInputs& inputs, const Array& workspace) {
  for_tensor_core(out.dtype, attention_shape(inputs), [&](auto type, auto size) {
    using T = decltype(type);
    const Inputs<T> all{
        Rows<const T>(inputs.query),
        Rows<const T>(inputs.key),
        Rows<const T>(inputs.value),
        Rows<const T>(dout),
        row_statistics<T>(context, workspace, dout, out, lse, log2_e),
        aligned_rows(inputs.query) && aligned_rows(inputs.key) && aligned_rows(inputs.value) && aligned_rows(dout)};
    launch_kernels<T, size>(context, dquery, dkey, dvalue, inputs, all);
  });
}

}  // namespace imgrec::cuda
