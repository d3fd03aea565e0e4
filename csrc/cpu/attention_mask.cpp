// The gradient of an additive mask. A task owns a tile of the mask, or of what was broadcast to it, and adds up the
// tiles of all samples, heads, queries and keys that share it, in their order.
#include "cpu/attention_gradient.h"
#include "cpu/parallel.h"

namespace imgrec {
namespace cpu {
namespace {

/// A range of blocks or of indices that a task goes through: one where the mask has its own, all where it is shared.
struct Extent {
  std::int64_t begin, end;
};

/// Takes the next digit of a task's number, in a dimension of `count` steps that are this mask's own or shared.
Extent take(std::int64_t& task, std::int64_t count, bool own) {
  if (!own) return {0, count};
  const std::int64_t index = task % count;
  task /= count;
  return {index, index + 1};
}

template <class S>
struct Scratch : GradientScratch<S> {
  using T = Compute<S>;
  T *sum, *wide_key, *wide_value;

  static std::int64_t size(const AttentionShape& shape) {
    return GradientScratch<S>::size(shape) + tile_stride * key_block + widened_size<S>(key_block, shape.head_size) +
           widened_size<S>(key_block, shape.value_size);
  }

  Scratch(T* memory, const AttentionShape& shape) : GradientScratch<S>(memory, shape) {
    sum = this->end;
    wide_key = sum + tile_stride * key_block;
    wide_value = wide_key + widened_size<S>(key_block, shape.head_size);
  }
};

std::int64_t blocks_of(std::int64_t length, std::int64_t block) { return (length + block - 1) / block; }

/// Adds the gradient tiles of one block of queries with a range of blocks of keys.
template <class S>
void add_tiles(const Scratch<S>& scratch, const AttentionInputs& inputs, const AttentionResults& results, Block block,
               Extent key_blocks) {
  using T = Compute<S>;
  const AttentionShape shape = attention_shape(inputs);
  const std::int64_t kv_head = block.head / (shape.heads / shape.kv_heads);
  load_queries<S>(scratch, inputs, results, block);
  for (std::int64_t index = key_blocks.begin; index < key_blocks.end; ++index) {
    block.key = index * key_block;
    block.keys = std::min(key_block, shape.keys - block.key);
    const auto key = widened_rows<S>(head_rows<const S>(inputs.key, block.sample, kv_head), block.key, block.keys,
                                     shape.head_size, scratch.wide_key);
    const auto value = widened_rows<S>(head_rows<const S>(inputs.value, block.sample, kv_head), block.key, block.keys,
                                       shape.value_size, scratch.wide_value);
    RowPrefetch nothing;
    compute_gradient_tile<S>(scratch, inputs, block, key, value, nothing);
    for (std::int64_t k = 0; k < block.keys; ++k)
      for (std::int64_t q = 0; q < block.queries; q += lanes<T>) {
        T* to = scratch.sum + k * tile_stride + q;
        store(to, load(to) + load(scratch.dscore + k * tile_stride + q));
      }
  }
}

/// Sums the tile over the dimensions in which the mask is shared, and writes what is left to its place.
template <class S>
void write_tile(const Array& dmask, S* to, Compute<S>* tile, std::int64_t queries, std::int64_t keys) {
  using T = Compute<S>;
  if (dmask.shape[3] == 1) {
    for (std::int64_t at = tile_stride; at < key_block * tile_stride; at += lanes<T>) {
      T* first = tile + at % tile_stride;
      store(first, load(first) + load(tile + at));
    }
    keys = 1;
  }
  if (dmask.shape[2] == 1) {
    for (std::int64_t k = 0; k < keys; ++k) {
      Vector<T> sum{};
      for (std::int64_t q = 0; q < tile_stride; q += lanes<T>) sum += load(tile + k * tile_stride + q);
      tile[k * tile_stride] = horizontal_sum<T>(sum);
    }
    queries = 1;
  }
  T one[query_block];
  std::fill(one, one + query_block, T(1));
  unpack_lanes<S>({to, dmask.shape[3]}, 0, tile, queries, keys, one);
}

template <class S>
void do_task(const Array& dmask, const AttentionResults& results, const AttentionInputs& inputs, std::int64_t task,
             const Scratch<S>& scratch) {
  using T = Compute<S>;
  const AttentionShape shape = attention_shape(inputs);
  const Extent keys = take(task, blocks_of(shape.keys, key_block), dmask.shape[3] > 1);
  const Extent queries = take(task, blocks_of(shape.queries, query_block), dmask.shape[2] > 1);
  const Extent heads = take(task, shape.heads, dmask.shape[1] > 1);
  const Extent samples = take(task, shape.batch, dmask.shape[0] > 1);
  std::fill(scratch.sum, scratch.sum + tile_stride * key_block, T(0));
  for (std::int64_t sample = samples.begin; sample < samples.end; ++sample)
    for (std::int64_t head = heads.begin; head < heads.end; ++head)
      for (std::int64_t index = queries.begin; index < queries.end; ++index) {
        const std::int64_t query = index * query_block;
        add_tiles<S>(scratch, inputs, results,
                     {.sample = sample,
                      .head = head,
                      .query = query,
                      .queries = std::min(query_block, shape.queries - query),
                      .key = 0,
                      .keys = 0},
                     keys);
      }
  const std::int64_t query = queries.begin * query_block, key = keys.begin * key_block;
  S* to = dmask.as<S>() + ((samples.begin * dmask.shape[1] + heads.begin) * dmask.shape[2] + query) * dmask.shape[3];
  write_tile<S>(dmask, to + key, scratch.sum, std::min(query_block, shape.queries - query),
                std::min(key_block, shape.keys - key));
}

}  // namespace
}  // namespace cpu

Plan attention_mask_backward_plan(const Context& context, const AttentionShape& shape, DType dtype) {
  Plan plan{.algorithm = "tiled"};
  cpu::for_floating(dtype, [&](auto tag) {
    using S = decltype(tag);
    plan.workspace_bytes =
        static_cast<std::int64_t>(sizeof(cpu::Compute<S>)) * context.threads * cpu::Scratch<S>::size(shape);
  });
  return plan;
}

void attention_mask_backward(const Context& context, const Array& dmask, const Array& dout, const Array& out,
                             const Array& lse, const AttentionInputs& inputs, const Array& workspace) {
  const std::int64_t tasks = dmask.shape[0] * dmask.shape[1] *
                             (dmask.shape[2] > 1 ? cpu::blocks_of(dmask.shape[2], cpu::query_block) : 1) *
                             (dmask.shape[3] > 1 ? cpu::blocks_of(dmask.shape[3], cpu::key_block) : 1);
  cpu::for_floating(out.dtype, [&](auto tag) {
    using S = decltype(tag);
    const AttentionShape shape = attention_shape(inputs);
    cpu::parallel_tasks(context, tasks, [&](std::int64_t task, int worker) {
      auto* memory = workspace.as<cpu::Compute<S>>() + worker * cpu::Scratch<S>::size(shape);
      cpu::do_task<S>(dmask, {dout, out, lse}, inputs, task, cpu::Scratch<S>(memory, shape));
    });
  });
}

}  // namespace imgrec
