// Tiled attention with an online softmax (Milakov and Gimelshein, 2018; Dao et al., "FlashAttention", 2022).
//
// A block of queries goes over the keys in blocks. Scores and weights of a strip of queries, as wide as the products'
// micro-kernel, stay in L1 between the products: (key, query) = key query^T, and then rows of (query, value element).
#include <limits>

#include "cpu/attention.h"
#include "cpu/attention_prefetch.h"
#include "cpu/attention_softmax.h"
#include "cpu/parallel.h"

namespace imgrec {
namespace cpu {
namespace {

/// Queries whose weights are made together.
template <class T>
constexpr std::int64_t strip = 2 * lanes<T>;
/// Blocks of queries are handed out several at a time, so that a thread knows what it will need next.
constexpr std::int64_t shares_per_thread = 16;
/// Keys and values of one head that are taken to stay in the second-level cache.
constexpr std::int64_t resident_bytes = 512 << 10;

/// The memory of one thread: a block of queries in lanes, its running result in rows, and a strip of weights.
template <class S>
struct Scratch {
  using T = Compute<S>;
  std::int64_t value_stride;
  T *query, *sums, *tile, *kept, *greatest, *total, *wide_key, *wide_value;

  static std::int64_t size(const AttentionShape& shape) {
    return tile_stride * (shape.head_size + 2) + 2 * key_block * strip<T> +
           widened_size<S>(key_block, shape.head_size) +
           (query_block + key_block) * round_to_lanes<T>(shape.value_size);
  }

  Scratch(const Array& workspace, const AttentionShape& shape, int worker)
      : value_stride(round_to_lanes<T>(shape.value_size)) {
    query = workspace.as<T>() + worker * size(shape);
    sums = query + tile_stride * shape.head_size;
    tile = sums + query_block * value_stride;
    kept = tile + key_block * strip<T>;
    greatest = kept + key_block * strip<T>;
    total = greatest + tile_stride;
    wide_value = total + tile_stride;
    wide_key = wide_value + key_block * value_stride;
  }
};

/// Turns a strip of scores into 2^(score - greatest so far) and adds them to the totals. What was summed before has to
/// be multiplied by `factor` to be on the same footing.
template <class T>
void update_softmax(T* tile, std::int64_t keys, std::int64_t queries, T* greatest, T* total, T* factor) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  for (std::int64_t q = 0; q < queries; q += lanes<T>) {
    const Vector<T> before = load(greatest + q);
    Vector<T> now = before, odd = before;
    for (std::int64_t k = 0; k + 1 < keys; k += 2) {
      now = maximum(now, load(tile + k * strip<T> + q));
      odd = maximum(odd, load(tile + (k + 1) * strip<T> + q));
    }
    now = maximum(maximum(now, odd), load(tile + (keys - 1) * strip<T> + q));
    store(greatest + q, now);
    now = now == -infinity ? Vector<T>{} : now;  // nothing seen yet: 2^-inf instead of 2^(-inf + inf)
    const Vector<T> scale = exp2<T>(before - now);
    store(factor + q, scale);
    Vector<T> sum = load(total + q) * scale;
    for (T *at = tile + q, *end = at + keys * strip<T>; at < end; at += strip<T>) {
      const Vector<T> weight = exp2<T>(load(at) - now);
      store(at, weight);
      sum += weight;
    }
    store(total + q, sum);
  }
}

template <class S>
class Forward {
 public:
  using T = Compute<S>;

  Forward(const Context& context, const Array& out, const Array& lse, const AttentionInputs& inputs,
          const Array& workspace)
      : context_(context),
        out_(out),
        lse_(lse),
        inputs_(inputs),
        workspace_(workspace),
        shape_(attention_shape(inputs)),
        head_bytes_(shape_.keys * (shape_.head_size + shape_.value_size) * std::int64_t(sizeof(S))),
        cuts_rows_(shape_.batch < context.threads && shape_.kv_heads * head_bytes_ <= resident_bytes),
        query_block_(even_block(shape_.queries, longest_block(), lanes<T>)),
        blocks_((shape_.queries + query_block_ - 1) / query_block_),
        key_block_(even_block(shape_.keys, key_block, 8)),
        head_stays_(head_bytes_ <= resident_bytes) {}

  void run() const {
    const std::int64_t units = shape_.batch * shape_.heads * blocks_;
    const std::int64_t share = std::max<std::int64_t>(1, units / (shares_per_thread * context_.threads));
    parallel_tasks(context_, (units + share - 1) / share, [&](std::int64_t task, int worker) {
      const Scratch<S> scratch(workspace_, shape_, worker);
      const std::int64_t end = std::min(units, (task + 1) * share);
      for (std::int64_t unit = task * share; unit < end; ++unit)
        do_block(block_at(unit), block_at(std::min(unit + 1, end - 1)), scratch);
    });
  }

 private:
  std::int64_t longest_block() const {
    const std::int64_t share = (shape_.queries + context_.threads - 1) / context_.threads;
    return cuts_rows_ ? std::clamp<std::int64_t>(share, 1, query_block) : query_block;
  }

  /// Under causality the last block of a head comes first: it has the most to do, and no thread should be left alone
  /// with it. Else the first does: then a thread gets rows that it often made itself.
  Block block_at(std::int64_t unit) const {
    const std::int64_t sample = unit / (shape_.heads * blocks_), part = unit % (shape_.heads * blocks_);
    const std::int64_t head = cuts_rows_ ? part % shape_.heads : part / blocks_;
    const std::int64_t number = cuts_rows_ ? part / shape_.heads : part % blocks_;
    const std::int64_t query = (inputs_.causal ? blocks_ - 1 - number : number) * query_block_;
    return {.sample = sample,
            .head = head,
            .query = query,
            .queries = std::min(query_block_, shape_.queries - query),
            .key = 0,
            .keys = std::min(key_block_, shape_.keys)};
  }

  HeadRows<const S> keys_of(const Block& block) const {
    return head_rows<const S>(inputs_.key, block.sample, block.head / (shape_.heads / shape_.kv_heads));
  }
  HeadRows<const S> values_of(const Block& block) const {
    return head_rows<const S>(inputs_.value, block.sample, block.head / (shape_.heads / shape_.kv_heads));
  }

  void do_block(Block block, const Block& next, const Scratch<S>& scratch) const {
    const auto queries = head_rows<const S>(inputs_.query, block.sample, block.head);
    pack_lanes<S>(scratch.query, queries, block.query, block.queries, shape_.head_size,
                  static_cast<T>(inputs_.scale * log2_e<double>));
    std::fill(scratch.greatest, scratch.greatest + tile_stride, -std::numeric_limits<T>::infinity());
    std::fill(scratch.total, scratch.total + tile_stride, T(0));
    const std::int64_t seen = visible_keys(inputs_, block.query + block.queries);
    if (seen == 0) std::fill(scratch.sums, scratch.sums + query_block * scratch.value_stride, T(0));
    RowPrefetch prefetch = prefetch_block(next, head_stays_ ? shape_.keys : next.keys, block);
    for (block.key = 0; block.key < seen; block.key += key_block_) {
      block.keys = std::min(key_block_, seen - block.key);
      const std::int64_t after = block.key + block.keys;
      if (head_stays_ || after == seen) {
        do_keys(block, scratch, prefetch);
      } else {
        RowPrefetch following = prefetch_keys(block, after, std::min(key_block_, seen - after));
        do_keys(block, scratch, following);
      }
    }
    finish(block, scratch);
  }

  RowPrefetch prefetch_keys(const Block& block, std::int64_t first, std::int64_t count) const {
    RowPrefetch prefetch;
    prefetch.add(keys_of(block), first, count, shape_.head_size);
    prefetch.add(values_of(block), first, count, shape_.value_size);
    return prefetch;
  }

  RowPrefetch prefetch_block(const Block& block, std::int64_t keys, const Block& before) const {
    RowPrefetch prefetch;
    if (!head_stays_ || block.head != before.head || block.sample != before.sample)
      prefetch = prefetch_keys(block, 0, keys);
    prefetch.add(head_rows<const S>(inputs_.query, block.sample, block.head), block.query, block.queries,
                 shape_.head_size);
    prefetch.add(head_rows<const S>(out_, block.sample, block.head), block.query, block.queries, shape_.value_size);
    return prefetch;
  }

  /// A block of queries with a block of keys, strip by strip.
  void do_keys(const Block& block, const Scratch<S>& scratch, RowPrefetch& prefetch) const {
    const auto key = widened_rows<S>(keys_of(block), block.key, block.keys, shape_.head_size, scratch.wide_key);
    const auto value = whole_rows<S>(values_of(block), block.key, block.keys, shape_.value_size, scratch.wide_value);
    for (std::int64_t q = 0; q < block.queries; q += strip<T>) {
      Block part = block;
      part.query += q;
      part.queries = std::min(strip<T>, block.queries - q);
      part.keys = std::min(block.keys, visible_keys(inputs_, part.query + part.queries) - block.key);
      if (part.keys <= 0) continue;
      multiply_and_prefetch<T, Operand::plain>(part.keys, part.queries, shape_.head_size, key.data, key.stride,
                                               scratch.query + q, tile_stride, scratch.tile, strip<T>, false, prefetch);
      mask_scores<T>({scratch.tile, strip<T>}, inputs_, part);
      T factor[strip<T>];
      update_softmax(scratch.tile, part.keys, part.queries, scratch.greatest + q, scratch.total + q, factor);
      if (inputs_.dropout > 0) drop(part, scratch);
      T* sums = scratch.sums + q * scratch.value_stride;
      if (block.key > 0) scale_rows(sums, scratch.value_stride, factor, part.queries);
      multiply_and_prefetch<T, Operand::transposed>(part.queries, shape_.value_size, part.keys, scratch.tile, strip<T>,
                                                    value.data, value.stride, sums, scratch.value_stride, block.key > 0,
                                                    prefetch);
    }
  }

  void drop(const Block& part, const Scratch<S>& scratch) const {
    fill_kept<T>({scratch.kept, strip<T>}, inputs_, part);
    for (std::int64_t i = 0; i < part.keys * strip<T>; i += lanes<T>)
      store(scratch.tile + i, load(scratch.tile + i) * load(scratch.kept + i));
  }

  static void scale_rows(T* rows, std::int64_t stride, const T* factor, std::int64_t count) {
    for (std::int64_t r = 0; r < count; ++r)
      for (T *at = rows + r * stride, *end = at + stride; at < end; at += lanes<T>) store(at, factor[r] * load(at));
  }

  /// Divides by the totals, which are 0 where there was nothing to attend to, and writes the block's rows.
  void finish(const Block& block, const Scratch<S>& scratch) const {
    T inverse[query_block], logarithm[query_block];
    for (std::int64_t q = 0; q < block.queries; q += lanes<T>) {
      const Vector<T> total = load(scratch.total + q);
      store(inverse + q, total == T(0) ? Vector<T>{} : T(1) / total);
      store(logarithm + q, load(scratch.greatest + q) * ln_2<T> + log(total));
    }
    const auto rows = head_rows<S>(out_, block.sample, block.head);
    for (std::int64_t q = 0; q < block.queries; ++q)
      for_vectors<S>(0, shape_.value_size, [&](std::int64_t d, int count) {
        store_narrow(rows.row(block.query + q) + d, inverse[q] * load(scratch.sums + q * scratch.value_stride + d),
                     count);
      });
    T* to = lse_.as<T>() + (block.sample * shape_.heads + block.head) * shape_.queries + block.query;
    std::copy(logarithm, logarithm + block.queries, to);
  }

  const Context& context_;
  const Array &out_, &lse_;
  const AttentionInputs& inputs_;
  const Array& workspace_;
  const AttentionShape shape_;
  const std::int64_t head_bytes_;  // keys and values of a head
  // Whether threads share the queries of a sample, each with all heads: the heads of a row are neighbours in memory,
  // and threads that write to the same rows take each other's lines.
  const bool cuts_rows_;
  const std::int64_t query_block_, blocks_, key_block_;
  const bool head_stays_;  // in the second-level cache, from one block of queries to the next
};

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
  cpu::for_floating(out.dtype,
                    [&](auto tag) { cpu::Forward<decltype(tag)>(context, out, lse, inputs, workspace).run(); });
}

}  // namespace imgrec
