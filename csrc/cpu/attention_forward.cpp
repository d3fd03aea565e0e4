// Tiled attention with an online softmax (Milakov and Gimelshein, 2018; Dao et al., "FlashAttention", 2022).
#include <limits>

#include "cpu/attention.h"
#include "cpu/parallel.h"
#include "cpu/tile.h"
#include "cpu/vector_math.h"

namespace imgrec {
namespace cpu {
namespace {

/// The memory of one thread: a block of queries and its running result, both with queries in lanes.
template <class S>
struct Scratch {
  using T = Compute<S>;
  T *query, *sums, *tile, *kept, *greatest, *total, *wide;

  static std::int64_t size(const AttentionShape& shape) {
    return tile_stride * (shape.head_size + shape.value_size + 2 * key_block + 2) +
           widened_size<S>(key_block, std::max(shape.head_size, shape.value_size));
  }

  Scratch(const Array& workspace, const AttentionShape& shape, int worker) {
    query = workspace.as<T>() + worker * size(shape);
    sums = query + tile_stride * shape.head_size;
    tile = sums + tile_stride * shape.value_size;
    kept = tile + tile_stride * key_block;
    greatest = kept + tile_stride * key_block;
    total = greatest + tile_stride;
    wide = total + tile_stride;
  }
};

/// Turns a tile of scores into exp(score - greatest so far) and brings what was summed before to the same footing.
template <class T>
void update_softmax(T* tile, const Block& block, T* greatest, T* total, T* sums, std::int64_t value_size) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  for (std::int64_t q = 0; q < block.queries; q += lanes<T>) {
    const Vector<T> before = load(greatest + q);
    Vector<T> now = before;
    for (std::int64_t k = 0; k < block.keys; ++k) now = maximum(now, load(tile + k * tile_stride + q));
    store(greatest + q, now);
    now = now == -infinity ? Vector<T>{} : now;  // nothing seen yet: exp(-inf) instead of exp(-inf + inf)
    const Vector<T> factor = exp(before - now);
    Vector<T> sum = load(total + q) * factor;
    for (std::int64_t k = 0; k < block.keys; ++k) {
      const Vector<T> weight = exp(load(tile + k * tile_stride + q) - now);
      store(tile + k * tile_stride + q, weight);
      sum += weight;
    }
    store(total + q, sum);
    for (std::int64_t d = 0; d < value_size; ++d)
      store(sums + d * tile_stride + q, load(sums + d * tile_stride + q) * factor);
  }
}

/// Divides by the totals, which are 0 where there was nothing to attend to, and writes the block's rows.
template <class S>
void finish(const Array& out, const Array& lse, const Scratch<S>& scratch, const Block& block) {
  using T = Compute<S>;
  T inverse[query_block], logarithm[query_block];
  for (std::int64_t q = 0; q < block.queries; q += lanes<T>) {
    const Vector<T> total = load(scratch.total + q);
    store(inverse + q, total == T(0) ? Vector<T>{} : T(1) / total);
    store(logarithm + q, load(scratch.greatest + q) + log(total));
  }
  unpack_lanes<S>(head_rows<S>(out, block.sample, block.head), block.query, scratch.sums, block.queries, out.shape[3],
                  inverse);
  T* to = lse.as<T>() + (block.sample * lse.shape[1] + block.head) * lse.shape[2] + block.query;
  std::copy(logarithm, logarithm + block.queries, to);
}

template <class S>
void forward_block(const Array& out, const Array& lse, const AttentionInputs& inputs, Block block,
                   const Scratch<S>& scratch) {
  using T = Compute<S>;
  const AttentionShape shape = attention_shape(inputs);
  const std::int64_t kv_head = block.head / (shape.heads / shape.kv_heads);
  const auto keys = head_rows<const S>(inputs.key, block.sample, kv_head);
  const auto values = head_rows<const S>(inputs.value, block.sample, kv_head);
  pack_lanes<S>(scratch.query, head_rows<const S>(inputs.query, block.sample, block.head), block.query, block.queries,
                shape.head_size, static_cast<T>(inputs.scale));
  std::fill(scratch.greatest, scratch.greatest + tile_stride, -std::numeric_limits<T>::infinity());
  std::fill(scratch.total, scratch.total + tile_stride, T(0));
  std::fill(scratch.sums, scratch.sums + tile_stride * shape.value_size, T(0));
  const std::int64_t seen = visible_keys(inputs, block.query + block.queries);
  for (block.key = 0; block.key < seen; block.key += key_block) {
    block.keys = std::min(key_block, seen - block.key);
    const auto key = widened_rows<S>(keys, block.key, block.keys, shape.head_size, scratch.wide);
    multiply_tile<T, Operand::plain>(block.keys, block.queries, shape.head_size, key.data, key.stride, scratch.query,
                                     tile_stride, scratch.tile, tile_stride, false);
    mask_scores(scratch.tile, inputs, block);
    update_softmax(scratch.tile, block, scratch.greatest, scratch.total, scratch.sums, shape.value_size);
    if (inputs.dropout > 0) {
      fill_kept(scratch.kept, inputs, block);
      for (std::int64_t i = 0; i < block.keys * tile_stride; i += lanes<T>)
        store(scratch.tile + i, load(scratch.tile + i) * load(scratch.kept + i));
    }
    const auto value = widened_rows<S>(values, block.key, block.keys, shape.value_size, scratch.wide);
    multiply_tile<T, Operand::transposed>(shape.value_size, block.queries, block.keys, value.data, value.stride,
                                          scratch.tile, tile_stride, scratch.sums, tile_stride, true);
  }
  finish<S>(out, lse, scratch, block);
}

}  // namespace
}  // namespace cpu

Plan attention_forward_plan(const Context& context, const AttentionShape& shape, DType dtype) {
  Plan plan{.algorithm = "tiled"};
  cpu::for_floating(dtype, [&](auto tag) {
    using S = decltype(tag);
    plan.workspace_bytes = context.threads * cpu::Scratch<S>::size(shape) * std::int64_t(sizeof(cpu::Compute<S>));
  });
  return plan;
}

void attention_forward(const Context& context, const Array& out, const Array& lse, const AttentionInputs& inputs,
                       const Array& workspace) {
  const AttentionShape shape = attention_shape(inputs);
  const std::int64_t blocks = (shape.queries + cpu::query_block - 1) / cpu::query_block;
  cpu::for_floating(out.dtype, [&](auto tag) {
    using S = decltype(tag);
    // The last block comes first: under causality it has the most to do, and no thread should be left alone with it.
    cpu::parallel_tasks(context, shape.batch * shape.heads * blocks, [&](std::int64_t task, int worker) {
      const std::int64_t query = (blocks - 1 - task % blocks) * cpu::query_block, head = task / blocks;
      const cpu::Block block{.sample = head / shape.heads,
                             .head = head % shape.heads,
                             .query = query,
                             .queries = std::min(cpu::query_block, shape.queries - query),
                             .key = 0,
                             .keys = 0};
      cpu::forward_block<S>(out, lse, inputs, block, cpu::Scratch<S>(workspace, shape, worker));
    });
  });
}

}  // namespace imgrec
