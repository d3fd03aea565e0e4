// The gradient of an additive mask, for all types: dmask = dS, summed over the dimensions in which the mask was shared.
//
//   dmask (N or 1, H or 1, S_q or 1, S_k or 1)     dS (N, H, S_q, S_k), computed anew by tiles as in backward_simt.cu
//
// A block owns a tile of 64 x 64 of the mask, or a row or a column of one where queries or keys share it, and goes over
// all tiles of dS that belong to it, in the order of samples, heads, queries and keys, with its sum of 4 x 4 elements a
// thread in registers; at the end threads add up what queries or keys share. No atomics, one order of every sum.
// Shared memory: 34 KB (float64: 43 KB). Registers: 167 (float64: 222).
// Measured share of the peer: not run on a GPU.
#include "cuda/attention/attention.h"
#include "cuda/attention/simt.h"

namespace imgrec::cuda {
namespace {

/// What a block goes through along one dimension: its own index, or all where the mask is shared.
struct Extent {
  std::int64_t begin, end;

  __device__ Extent(std::int64_t index, std::int64_t own, std::int64_t all)
      : begin(own > 1 ? index : 0), end(own > 1 ? index + 1 : all) {}
};

struct MaskShape {
  std::int64_t samples, heads, queries, keys;  // 1 where shared
};

/// Sums over the tile's queries or keys, so that row 0 or column 0 holds what is to be written.
template <class T>
__device__ void reduce_tile(T (&tile)[simt_tile][simt_stride], const MaskShape& shape) {
  const int index = static_cast<int>(threadIdx.x);
  if (shape.keys == 1 && index < simt_tile)
    for (int k = 1; k < simt_tile; ++k) tile[index][0] += tile[index][k];
  __syncthreads();
  if (shape.queries == 1 && index < simt_tile)
    for (int q = 1; q < simt_tile; ++q) tile[0][index] += tile[q][index];
  __syncthreads();
}

template <class S>
__global__ void __launch_bounds__(simt_threads, 1)
    mask_kernel(S* dmask, MaskShape shape, ScoreRules rules, GradientInputs<S> inputs) {
  using T = Compute<S>;
  SHARED(SimtMemory<T>, memory, );
  const std::int64_t query_tiles = (rules.shape.queries + simt_tile - 1) / simt_tile;
  const std::int64_t key_tiles = (rules.shape.keys + simt_tile - 1) / simt_tile;
  const Extent samples(blockIdx.x / shape.heads, shape.samples, rules.shape.batch);
  const Extent heads(blockIdx.x % shape.heads, shape.heads, rules.shape.heads);
  const Extent queries(blockIdx.y, shape.queries, query_tiles), keys(blockIdx.z, shape.keys, key_tiles);
  T sums[4][4] = {};
  for (std::int64_t sample = samples.begin; sample < samples.end; ++sample)
    for (std::int64_t head = heads.begin; head < heads.end; ++head)
      for (std::int64_t query = queries.begin; query < queries.end; ++query)
        for (std::int64_t key = keys.begin; key < keys.end; ++key) {
          T weights[4][4], dscores[4][4];
          const ScoreMatrix<S> matrix{rules, sample, head};
          gradient_tile<S>(weights, dscores, memory, matrix, inputs, query * simt_tile, key * simt_tile);
#pragma unroll
          for (int i = 0; i < 16; ++i) sums[i / 4][i % 4] += dscores[i / 4][i % 4];
        }
  store_weights<false>(memory, sums);
  __syncthreads();
  reduce_tile(memory.weights, shape);
  for (int i = static_cast<int>(threadIdx.x); i < simt_tile * simt_tile; i += simt_threads) {
    const std::int64_t query = queries.begin * simt_tile + i / simt_tile, key = keys.begin * simt_tile + i % simt_tile;
    if (query < shape.queries && key < shape.keys)
      dmask[(blockIdx.x * shape.queries + query) * shape.keys + key] =
          narrow<S>(memory.weights[i / simt_tile][i % simt_tile]);
  }
}

unsigned tiles(std::int64_t length) { return static_cast<unsigned>((length + simt_tile - 1) / simt_tile); }

}  // namespace

void attention_mask_backward_simt(const Context& context, const Array& dmask, const Array& dout, const Array& out,
                                  const Array& lse, const AttentionInputs& inputs, const Array& workspace) {
  for_floating(out.dtype, [&](auto type) {
    using S = decltype(type);
    const auto statistics = row_statistics<S>(context, workspace, dout, out, lse, 1);
    const MaskShape shape{dmask.shape[0], dmask.shape[1], dmask.shape[2], dmask.shape[3]};
    const dim3 blocks(static_cast<unsigned>(shape.samples * shape.heads), tiles(shape.queries), tiles(shape.keys));
    LAUNCH((mask_kernel<S>), context, {.blocks = blocks, .threads = simt_threads}, dmask.as<S>(), shape,
           ScoreRules(inputs),
           GradientInputs<S>{Rows<const S>(inputs.query), Rows<const S>(inputs.key), Rows<const S>(inputs.value),
                             Rows<const S>(dout), statistics.lse, statistics.delta});
  });
}

}  // namespace imgrec::cuda
