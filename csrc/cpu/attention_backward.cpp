// The gradients of query, key and value in one pass over the tiles, each of which is computed anew once.
//
// A task owns a range of keys of one sample and key/value head and goes through all queries: it sums the gradients of
// its keys and values in its own memory, and writes its part of the queries' gradient. Where a head's keys are spread
// over several tasks, those parts are added afterwards in the order of the keys.
#include "cpu/attention_gradient.h"
#include "cpu/parallel.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t wanted_tasks = 16, least_keys = 256;
/// Ranges are handed out several at a time, so that a thread knows what it will need next.
constexpr std::int64_t shares_per_thread = 8;

/// How the keys of a head are spread over tasks: by the shape alone.
struct KeyRanges {
  std::int64_t length, count;

  explicit KeyRanges(const AttentionShape& shape) {
    const std::int64_t heads = std::max<std::int64_t>(1, shape.batch * shape.kv_heads);
    const std::int64_t most = std::max<std::int64_t>(1, shape.keys / least_keys);
    const std::int64_t wanted = std::min(most, (wanted_tasks + heads - 1) / heads);
    const std::int64_t even = (shape.keys + wanted - 1) / wanted;
    length = std::max(key_block, (even + key_block - 1) / key_block * key_block);
    count = std::max<std::int64_t>(1, (shape.keys + length - 1) / length);
  }
};

/// The memory of one thread beyond the tiles: the task's keys and values and their sums, a block's rows and its sums.
template <class S>
struct Scratch : GradientScratch<S> {
  using T = Compute<S>;
  std::int64_t head_stride, value_stride;
  T *key, *value, *dkey, *dvalue, *query_rows, *dout_rows, *dquery;

  static std::int64_t size(const AttentionShape& shape) {
    return GradientScratch<S>::size(shape) +
           (2 * KeyRanges(shape).length + query_block) *
               (round_to_lanes<T>(shape.head_size) + round_to_lanes<T>(shape.value_size)) +
           query_block * round_to_lanes<T>(shape.head_size);
  }

  Scratch(T* memory, const AttentionShape& shape) : GradientScratch<S>(memory, shape) {
    const std::int64_t length = KeyRanges(shape).length;
    head_stride = round_to_lanes<T>(shape.head_size);
    value_stride = round_to_lanes<T>(shape.value_size);
    key = this->end;
    value = key + length * head_stride;
    dkey = value + length * value_stride;
    dvalue = dkey + length * head_stride;
    query_rows = dvalue + length * value_stride;
    dout_rows = query_rows + query_block * head_stride;
    dquery = dout_rows + query_block * value_stride;
  }
};

template <class S>
class Backward {
 public:
  using T = Compute<S>;

  Backward(const Array& dquery, const Array& dkey, const Array& dvalue, const AttentionResults& results,
           const AttentionInputs& inputs, const Array& workspace)
      : dquery_(dquery),
        dkey_(dkey),
        dvalue_(dvalue),
        results_(results),
        inputs_(inputs),
        shape_(attention_shape(inputs)),
        ranges_(shape_),
        group_(shape_.heads / shape_.kv_heads),
        query_block_(even_block(shape_.queries, query_block, lanes<T>)),
        key_block_(even_block(std::min(ranges_.length, shape_.keys), key_block, 8)),
        parts_(workspace.as<T>()) {}

  static std::int64_t parts_size(const AttentionShape& shape) {
    const KeyRanges ranges(shape);
    return ranges.count == 1 ? 0 : ranges.count * shape.batch * shape.queries * shape.heads * shape.head_size;
  }

  void run(const Context& context) const {
    T* const memory = parts_ + parts_size(shape_);
    const std::int64_t count = shape_.batch * shape_.kv_heads * ranges_.count;
    const std::int64_t share = std::max<std::int64_t>(1, count / (shares_per_thread * context.threads));
    parallel_tasks(context, (count + share - 1) / share, [&](std::int64_t task, int worker) {
      const Scratch<S> scratch(memory + worker * Scratch<S>::size(shape_), shape_);
      const std::int64_t end = std::min(count, (task + 1) * share);
      for (std::int64_t range = task * share; range < end; ++range)
        do_range(range_at(range), range_at(std::min(range + 1, end - 1)), scratch);
    });
    if (ranges_.count > 1) add_parts(context);
  }

 private:
  /// The first block of queries with all keys of a range.
  Block range_at(std::int64_t index) const {
    const std::int64_t kv_index = index / ranges_.count, first = index % ranges_.count * ranges_.length;
    return {.sample = kv_index / shape_.kv_heads,
            .head = kv_index % shape_.kv_heads * group_,
            .query = 0,
            .queries = std::min(query_block_, shape_.queries),
            .key = first,
            .keys = std::min(ranges_.length, shape_.keys - first)};
  }

  /// The block of queries that a range comes to after `block`, or the first one of the next range.
  Block after(Block block, const Block& next) const {
    block.query += query_block_;
    if (block.query >= shape_.queries) {
      if (++block.head % group_ == 0) return next;
      block.query = 0;
    }
    block.queries = std::min(query_block_, shape_.queries - block.query);
    return block;
  }

  void do_range(Block block, const Block& next, const Scratch<S>& scratch) const {
    const std::int64_t first = block.key, keys = block.keys,
                       blocks = (shape_.queries + query_block_ - 1) / query_block_ * group_;
    pack_rows<S>(scratch.key, keys_of(inputs_.key, block), first, keys, shape_.head_size, 1);
    pack_rows<S>(scratch.value, keys_of(inputs_.value, block), first, keys, shape_.value_size, 1);
    std::fill(scratch.dkey, scratch.dkey + keys * scratch.head_stride, T(0));
    std::fill(scratch.dvalue, scratch.dvalue + keys * scratch.value_stride, T(0));
    const auto dkey = keys_of<S>(dkey_, block), dvalue = keys_of<S>(dvalue_, block);
    for (std::int64_t i = 0; i < blocks; ++i) {
      const Block following = after(block, next);
      RowPrefetch prefetch;
      if (ranges_.count == 1)
        prefetch.add(head_rows<const S>(dquery_, block.sample, block.head), block.query, block.queries,
                     shape_.head_size);
      if (i == blocks - 1) {
        prefetch.add(dkey, first, keys, shape_.head_size);
        prefetch.add(dvalue, first, keys, shape_.value_size);
        prefetch.add(keys_of(inputs_.key, next), next.key, next.keys, shape_.head_size);
        prefetch.add(keys_of(inputs_.value, next), next.key, next.keys, shape_.value_size);
      }
      for (const Array* rows : {&inputs_.query, &results_.dout, &results_.out})
        prefetch.add(head_rows<const S>(*rows, following.sample, following.head), following.query, following.queries,
                     rows->shape[3]);
      do_queries(block, scratch, prefetch);
      block = following;
    }
    write_rows<S>(dkey, first, keys, scratch.dkey, shape_.head_size, static_cast<T>(inputs_.scale));
    write_rows<S>(dvalue, first, keys, scratch.dvalue, shape_.value_size, 1);
  }

  template <class Element = const S>
  HeadRows<Element> keys_of(const Array& array, const Block& block) const {
    return head_rows<Element>(array, block.sample, block.head / group_);
  }

  /// One block of queries with all keys of the task (`all`): adds to dkey and dvalue, and finishes its part of dquery.
  void do_queries(const Block& all, const Scratch<S>& scratch, RowPrefetch& prefetch) const {
    const std::int64_t seen = std::min(all.key + all.keys, visible_keys(inputs_, all.query + all.queries));
    if (seen > all.key) {
      load_queries<S>(scratch, inputs_, results_, all);
      pack_rows<S>(scratch.query_rows, head_rows<const S>(inputs_.query, all.sample, all.head), all.query, all.queries,
                   shape_.head_size, 1);
      pack_rows<S>(scratch.dout_rows, head_rows<const S>(results_.dout, all.sample, all.head), all.query, all.queries,
                   shape_.value_size, 1);
    } else {
      std::fill(scratch.dquery, scratch.dquery + all.queries * scratch.head_stride, T(0));
    }
    Block block = all;
    for (; block.key < seen; block.key += key_block_) {
      block.keys = std::min(key_block_, seen - block.key);
      const std::int64_t row = block.key - all.key;
      do_tile(block, row, scratch, prefetch);
    }
    const auto scale = static_cast<T>(inputs_.scale);
    if (ranges_.count == 1) {
      write_rows<S>(head_rows<S>(dquery_, all.sample, all.head), all.query, all.queries, scratch.dquery,
                    shape_.head_size, scale);
    } else {
      Array part = dquery_;  // the same layout in the type to compute in
      part.data = parts_ + all.key / ranges_.length * dquery_.size();
      write_rows<T>(head_rows<T>(part, all.sample, all.head), all.query, all.queries, scratch.dquery, shape_.head_size,
                    scale);
    }
  }

  /// The five products of a tile, whose keys begin at a row of the task's own.
  void do_tile(const Block& block, std::int64_t row, const Scratch<S>& scratch, RowPrefetch& prefetch) const {
    const T *key = scratch.key + row * scratch.head_stride, *value = scratch.value + row * scratch.value_stride;
    compute_gradient_tile<S>(scratch, inputs_, block, {key, scratch.head_stride}, {value, scratch.value_stride},
                             prefetch);
    multiply_and_prefetch<T, Operand::transposed>(block.queries, shape_.head_size, block.keys, scratch.dscore,
                                                  tile_stride, key, scratch.head_stride, scratch.dquery,
                                                  scratch.head_stride, row > 0, prefetch);
    multiply_and_prefetch<T, Operand::plain>(
        block.keys, shape_.head_size, block.queries, scratch.dscore, tile_stride, scratch.query_rows,
        scratch.head_stride, scratch.dkey + row * scratch.head_stride, scratch.head_stride, true, prefetch);
    multiply_and_prefetch<T, Operand::plain>(
        block.keys, shape_.value_size, block.queries, scratch.weight, tile_stride, scratch.dout_rows,
        scratch.value_stride, scratch.dvalue + row * scratch.value_stride, scratch.value_stride, true, prefetch);
  }

  template <class To>
  static void write_rows(HeadRows<To> to, std::int64_t first, std::int64_t rows, const T* from, std::int64_t size,
                         T factor) {
    for (std::int64_t r = 0; r < rows; ++r)
      for_vectors<To>(0, size, [&](std::int64_t d, int count) {
        store_narrow(to.row(first + r) + d, factor * load(from + r * round_to_lanes<T>(size) + d), count);
      });
  }

  void add_parts(const Context& context) const {
    constexpr std::int64_t grain = 1 << 13;
    const std::int64_t size = dquery_.size();
    parallel_range(context, size, grain, [&](std::int64_t begin, std::int64_t end) {
      for_vectors<S>(begin, end, [&](std::int64_t i, int count) {
        Vector<T> sum{};
        for (std::int64_t range = 0; range < ranges_.count; ++range) sum += load_wide(parts_ + range * size + i, count);
        store_narrow(dquery_.as<S>() + i, sum, count);
      });
    });
  }

  const Array &dquery_, &dkey_, &dvalue_;
  const AttentionResults& results_;
  const AttentionInputs& inputs_;
  const AttentionShape shape_;
  const KeyRanges ranges_;
  const std::int64_t group_, query_block_, key_block_;
  T* parts_;  // the parts of dquery, one for each range of keys; the threads' scratch follows
};

}  // namespace
}  // namespace cpu

Plan attention_backward_plan(const Context& context, const AttentionShape& shape, DType dtype) {
  Plan plan{.algorithm = "tiled"};
  cpu::for_floating(dtype, [&](auto tag) {
    using S = decltype(tag);
    plan.workspace_bytes = static_cast<std::int64_t>(sizeof(cpu::Compute<S>)) *
                           (cpu::Backward<S>::parts_size(shape) + context.threads * cpu::Scratch<S>::size(shape));
  });
  return plan;
}

void attention_backward(const Context& context, const Array& dquery, const Array& dkey, const Array& dvalue,
                        const Array& dout, const Array& out, const Array& lse, const AttentionInputs& inputs,
                        const Array& workspace) {
  cpu::for_floating(out.dtype, [&](auto tag) {
    cpu::Backward<decltype(tag)>(dquery, dkey, dvalue, {dout, out, lse}, inputs, workspace).run(context);
  });
}

}  // namespace imgrec
