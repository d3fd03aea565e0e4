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

constexpr std::int64_t wanted_tasks = 32, least_keys = 256;

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

/// The memory of one thread beyond the tiles: rows of a block of queries, and sums for the task's keys.
template <class S>
struct Scratch : GradientScratch<S> {
  using T = Compute<S>;
  std::int64_t head_stride, value_stride;
  T *query_rows, *dout_rows, *dquery, *dkey, *dvalue, *wide_keys, *wide_values;

  static std::int64_t size(const AttentionShape& shape) {
    const std::int64_t length = KeyRanges(shape).length;
    return GradientScratch<S>::size(shape) + tile_stride * shape.head_size +
           (query_block + length) * (round_to_lanes<T>(shape.head_size) + round_to_lanes<T>(shape.value_size)) +
           widened_size<S>(length, shape.head_size) + widened_size<S>(length, shape.value_size);
  }

  Scratch(T* memory, const AttentionShape& shape) : GradientScratch<S>(memory, shape) {
    const std::int64_t length = KeyRanges(shape).length;
    head_stride = round_to_lanes<T>(shape.head_size);
    value_stride = round_to_lanes<T>(shape.value_size);
    query_rows = this->end;
    dout_rows = query_rows + query_block * head_stride;
    dquery = dout_rows + query_block * value_stride;
    dkey = dquery + tile_stride * shape.head_size;
    dvalue = dkey + length * head_stride;
    wide_keys = dvalue + length * value_stride;
    wide_values = wide_keys + widened_size<S>(length, shape.head_size);
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
        parts_(workspace.as<T>()) {}

  static std::int64_t parts_size(const AttentionShape& shape) {
    const KeyRanges ranges(shape);
    return ranges.count == 1 ? 0 : ranges.count * shape.batch * shape.queries * shape.heads * shape.head_size;
  }

  void run(const Context& context) const {
    T* scratch = parts_ + parts_size(shape_);
    parallel_tasks(context, shape_.batch * shape_.kv_heads * ranges_.count, [&](std::int64_t task, int worker) {
      do_range(task / ranges_.count, task % ranges_.count,
               Scratch<S>(scratch + worker * Scratch<S>::size(shape_), shape_));
    });
    if (ranges_.count > 1) add_parts(context);
  }

 private:
  void do_range(std::int64_t kv_index, std::int64_t range, const Scratch<S>& scratch) const {
    const std::int64_t sample = kv_index / shape_.kv_heads, kv_head = kv_index % shape_.kv_heads;
    const std::int64_t first = range * ranges_.length, keys = std::min(ranges_.length, shape_.keys - first);
    const auto key = widened_rows<S>(head_rows<const S>(inputs_.key, sample, kv_head), first, keys, shape_.head_size,
                                     scratch.wide_keys);
    const auto value = widened_rows<S>(head_rows<const S>(inputs_.value, sample, kv_head), first, keys,
                                       shape_.value_size, scratch.wide_values);
    std::fill(scratch.dkey, scratch.dkey + keys * scratch.head_stride, T(0));
    std::fill(scratch.dvalue, scratch.dvalue + keys * scratch.value_stride, T(0));
    const std::int64_t group = shape_.heads / shape_.kv_heads;
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
      for (std::int64_t query = 0; query < shape_.queries; query += query_block)
        do_queries({.sample = sample,
                    .head = head,
                    .query = query,
                    .queries = std::min(query_block, shape_.queries - query),
                    .key = first,
                    .keys = keys},
                   range, key, value, scratch);
    write_rows(head_rows<S>(dkey_, sample, kv_head), first, keys, scratch.dkey, shape_.head_size);
    write_rows(head_rows<S>(dvalue_, sample, kv_head), first, keys, scratch.dvalue, shape_.value_size);
  }

  /// One block of queries with all keys of the task (`all`): adds to dkey and dvalue, and finishes its part of dquery.
  void do_queries(const Block& all, std::int64_t range, HeadRows<const T> key, HeadRows<const T> value,
                  const Scratch<S>& scratch) const {
    const std::int64_t seen = std::min(all.key + all.keys, visible_keys(inputs_, all.query + all.queries));
    std::fill(scratch.dquery, scratch.dquery + tile_stride * shape_.head_size, T(0));
    if (seen > all.key) {
      load_queries<S>(scratch, inputs_, results_, all);
      pack_rows<S>(scratch.query_rows, head_rows<const S>(inputs_.query, all.sample, all.head), all.query, all.queries,
                   shape_.head_size, static_cast<T>(inputs_.scale));
      pack_rows<S>(scratch.dout_rows, head_rows<const S>(results_.dout, all.sample, all.head), all.query, all.queries,
                   shape_.value_size, 1);
    }
    Block block = all;
    for (; block.key < seen; block.key += key_block) {
      block.keys = std::min(key_block, seen - block.key);
      const std::int64_t row = block.key - all.key;
      const HeadRows<const T> key_rows{key.row(row), key.stride};
      compute_gradient_tile<S>(scratch, inputs_, block, key_rows, {value.row(row), value.stride});
      multiply_tile<T, Operand::transposed>(shape_.head_size, block.queries, block.keys, key_rows.data, key_rows.stride,
                                            scratch.dscore, tile_stride, scratch.dquery, tile_stride, true);
      multiply_tile<T, Operand::plain>(block.keys, shape_.head_size, block.queries, scratch.dscore, tile_stride,
                                       scratch.query_rows, scratch.head_stride,
                                       scratch.dkey + row * scratch.head_stride, scratch.head_stride, true);
      multiply_tile<T, Operand::plain>(block.keys, shape_.value_size, block.queries, scratch.weight, tile_stride,
                                       scratch.dout_rows, scratch.value_stride,
                                       scratch.dvalue + row * scratch.value_stride, scratch.value_stride, true);
    }
    T scale[query_block];
    std::fill(scale, scale + query_block, static_cast<T>(inputs_.scale));
    if (ranges_.count == 1) {
      unpack_lanes<S>(head_rows<S>(dquery_, all.sample, all.head), all.query, scratch.dquery, all.queries,
                      shape_.head_size, scale);
    } else {
      Array part = dquery_;  // the same layout in the type to compute in
      part.data = parts_ + range * dquery_.size();
      unpack_lanes<T>(head_rows<T>(part, all.sample, all.head), all.query, scratch.dquery, all.queries,
                      shape_.head_size, scale);
    }
  }

  static void write_rows(HeadRows<S> to, std::int64_t first, std::int64_t rows, const T* from, std::int64_t size) {
    for (std::int64_t r = 0; r < rows; ++r)
      for_vectors<S>(0, size, [&](std::int64_t d, int count) {
        store_narrow(to.row(first + r) + d, load(from + r * round_to_lanes<T>(size) + d), count);
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
