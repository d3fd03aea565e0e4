// Attention's forward pass on tensor cores, for bfloat16 and float16 and heads of up to 256 (Dao, "FlashAttention-2",
// 2023).
//
//   query (N, S_q, H, D), key (N, S_k, H_kv, D), value (N, S_k, H_kv, E), out (N, S_q, H, E), lse (N, H, S_q) float32
//
// A block of four warps owns 64 queries of one sample and head, 16 a warp, and goes over the keys in tiles of 64 (32
// where Size is 256), those after the diagonal left out. Everything about a query stays in four neighbouring lanes: its
// scores, its greatest score m and sum l so far, and its row of out (Size / 2 registers). Scores are in units of log 2:
//
//   s = log2(e) (scale q k + mask)     m' = max(m, s)
//   l' = l 2^(m - m') + sum 2^(s - m')     o' = o 2^(m - m') + 2^(s - m') V
//
// and at the end out = o / l, lse = log(2) (m + log2 l). One tile of keys and one of values are in shared memory:
// values are copied while scores are computed, and the next keys while weights multiply values.
// Shared memory: 24, 48, 64 KB for Size 64, 128, 256. Registers: 163, 213, 231 (compute capability 8.0). Measured share
// of the peer: not run on a GPU.
#include "cuda/attention/attention.h"
#include "cuda/attention/tensor_core.h"

namespace imgrec::cuda {
namespace {

/// Rows of a tile of keys: with 32 of them, sums of 256 columns still leave registers for scores.
template <int Size>
constexpr int key_tile = Size > 128 ? 32 : 64;

/// What a lane knows of its two queries.
struct Softmax {
  float maximum[2] = {-infinity(), -infinity()}, total[2] = {};
};

/// Scores become weights relative to the new maximum; `rescale` is what older sums are multiplied by.
template <int Keys>
__device__ __forceinline__ void update_softmax(Softmax& softmax, float (&scores)[Keys / 8][4], float (&rescale)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float maximum = -infinity(), sum = 0;
#pragma unroll
    for (int n = 0; n < Keys / 8; ++n) maximum = max(maximum, max(scores[n][2 * half], scores[n][2 * half + 1]));
    maximum = max(softmax.maximum[half], warp_max<4>(maximum));
    const float reference = maximum == -infinity() ? 0.0f : maximum;  // nothing seen yet: 2^(-inf - 0) = 0, not NaN
    rescale[half] = exp2f(softmax.maximum[half] - reference);
#pragma unroll
    for (int n = 0; n < Keys / 8; ++n)
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[n][i] = exp2f(scores[n][i] - reference);
        sum += scores[n][i];
      }
    // Lanes add up what they have seen; the four are added at the end.
    softmax.total[half] = softmax.total[half] * rescale[half] + sum;
    softmax.maximum[half] = maximum;
  }
}

template <int Keys>
__device__ __forceinline__ void drop_weights(float (&weights)[Keys / 8][4], std::uint32_t kept, float scale) {
#pragma unroll
  for (int n = 0; n < Keys / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) weights[n][i] *= kept >> (4 * n + i) & 1 ? scale : 0.0f;
}

template <class T, int Size>
__global__ void __launch_bounds__(tensor_core_threads)
    forward_kernel(Rows<T> out, float* lse, ScoreRules rules, Rows<const T> query, Rows<const T> key,
                   Rows<const T> value, bool aligned, bool out_aligned) {
  constexpr int keys = key_tile<Size>;
  DYN_SHARED(T, query_memory);
  T *const key_memory = query_memory + block_rows * Size, *const value_memory = key_memory + keys * Size;
  T* const own_queries = query_memory + warp_number() * warp_rows * Size;
  const ScoreMatrix<T> matrix{rules, blockIdx.x / rules.shape.heads, blockIdx.x % rules.shape.heads};
  const std::int64_t kv_head = matrix.kv_head();
  // Under causality the last queries have the most keys: they start first.
  const std::int64_t first = static_cast<std::int64_t>(gridDim.y - 1 - blockIdx.y) * block_rows;
  const std::int64_t own_first = first + warp_number() * warp_rows;
  const int head_size = static_cast<int>(rules.shape.head_size), value_size = static_cast<int>(rules.shape.value_size);
  const std::int64_t end = matrix.visible_keys(min(first + block_rows, rules.shape.queries));

  float sums[Size / 8][4] = {};
  Softmax softmax;
  load_tile<Size, block_rows>(query_memory, query.tile(matrix.sample, matrix.head, first, block_rows), head_size,
                              aligned);
  load_tile<Size, keys>(key_memory, key.tile(matrix.sample, kv_head, 0, keys), head_size, aligned);
  copy_async_commit();
  for (std::int64_t at = 0; at < end; at += keys) {
    copy_async_wait<0>();
    __syncthreads();  // the keys are here, and the values before have been read
    load_tile<Size, keys>(value_memory, value.tile(matrix.sample, kv_head, at, keys), value_size, aligned);
    copy_async_commit();
    const StripRules strip = strip_rules<false, keys>(matrix, own_first, at);
    float scores[keys / 8][4] = {}, rescale[2];
    multiply_tiles<Size, keys>(scores, own_queries, key_memory, head_size);
    finish_scores<false, keys>(scores, matrix, own_first, at, strip.visible);
    update_softmax<keys>(softmax, scores, rescale);
    if (rules.state) drop_weights<keys>(scores, strip.kept, static_cast<float>(rules.kept_scale));
#pragma unroll
    for (int n = 0; n < Size / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[n][i] *= rescale[i / 2];
    copy_async_wait<0>();
    __syncthreads();  // the values are here, and the keys have been read
    if (at + keys < end)
      load_tile<Size, keys>(key_memory, key.tile(matrix.sample, kv_head, at + keys, keys), head_size, aligned);
    copy_async_commit();
    multiply_strip<Size, Size, keys>(sums, scores, value_memory, 0, value_size);
  }
  copy_async_wait<0>();
  __syncthreads();  // no copy is under way to the queries' rows, which are used again

  float factors[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = warp_sum<4>(softmax.total[half]);
    factors[half] = total == 0 ? 0.0f : 1 / total;
    const std::int64_t row = own_first + strip_row(2 * half);
    if (lane_number() % 4 == 0 && row < rules.shape.queries)
      lse[matrix.row(row)] = (softmax.maximum[half] + log2f(total)) * log_2;
  }
  write_strip<Size, Size>(out.tile(matrix.sample, matrix.head, own_first, warp_rows), own_queries, sums, factors, 0,
                          value_size, out_aligned);
}

}  // namespace

void attention_forward_tensor_core(const Context& context, const Array& out, const Array& lse,
                                   const AttentionInputs& inputs) {
  const AttentionShape shape = attention_shape(inputs);
  for_tensor_core(out.dtype, shape, [&](auto type, auto size) {
    using T = decltype(type);
    constexpr int shared_bytes = (block_rows + 2 * key_tile<size>)*size * static_cast<int>(sizeof(T));
    ALLOW_SHARED((forward_kernel<T, size>), shared_bytes);
    const dim3 blocks(static_cast<unsigned>(shape.batch * shape.heads),
                      static_cast<unsigned>((shape.queries + block_rows - 1) / block_rows));
    LAUNCH((forward_kernel<T, size>), context,
           {.blocks = blocks, .threads = tensor_core_threads, .shared_bytes = shared_bytes}, Rows<T>(out),
           lse.as<float>(), ScoreRules(inputs), Rows<const T>(inputs.query), Rows<const T>(inputs.key),
           Rows<const T>(inputs.value),
           aligned_rows(inputs.query) && aligned_rows(inputs.key) && aligned_rows(inputs.value), aligned_rows(out));
  });
}

}  // namespace imgrec::cuda
