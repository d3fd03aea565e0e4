// The step that attention's two backward passes share: a tile of the scores' gradient, computed anew from its inputs.
#pragma once

#include <limits>

#include "cpu/attention.h"
#include "cpu/attention_prefetch.h"
#include "cpu/attention_softmax.h"

namespace imgrec::cpu {

/// What a block of queries brings to the tiles, in the memory of one thread: rows of query and dout in lanes, lse and
/// sum(dout out) of each row, and the tiles themselves.
template <class S>
struct GradientScratch {
  using T = Compute<S>;
  T *query, *dout, *lse, *delta;
  T* weight;  // the weights after dropout, whose product with dout is the values' gradient
  T* dscore;
  T* kept;
  T* end;

  static std::int64_t size(const AttentionShape& shape) {
    return tile_stride * (shape.head_size + shape.value_size + 3 * key_block + 2);
  }

  GradientScratch(T* memory, const AttentionShape& shape) {
    query = memory;
    dout = query + tile_stride * shape.head_size;
    lse = dout + tile_stride * shape.value_size;
    delta = lse + tile_stride;
    weight = delta + tile_stride;
    dscore = weight + tile_stride * key_block;
    kept = dscore + tile_stride * key_block;
    end = kept + tile_stride * key_block;
  }
};

struct AttentionResults {
  const Array &dout, &out, &lse;
};

/// Fills the parts of the scratch that a block of queries shares among all keys.
template <class S>
void load_queries(const GradientScratch<S>& scratch, const AttentionInputs& inputs, const AttentionResults& results,
                  const Block& block) {
  using T = Compute<S>;
  const AttentionShape shape = attention_shape(inputs);
  const auto dout = head_rows<const S>(results.dout, block.sample, block.head);
  const auto out = head_rows<const S>(results.out, block.sample, block.head);
  pack_lanes<S>(scratch.query, head_rows<const S>(inputs.query, block.sample, block.head), block.query, block.queries,
                shape.head_size, static_cast<T>(inputs.scale * log2_e<double>));
  pack_lanes<S>(scratch.dout, dout, block.query, block.queries, shape.value_size, 1);
  // +inf makes every weight of an empty row, and of the lanes past the last one, exp(-inf) = 0.
  std::fill(scratch.lse, scratch.lse + tile_stride, std::numeric_limits<T>::infinity());
  std::fill(scratch.delta, scratch.delta + tile_stride, T(0));
  const std::int64_t first = (block.sample * shape.heads + block.head) * shape.queries + block.query;
  const T* lse = results.lse.as<const T>() + first;
  for (std::int64_t q = 0; q < block.queries; ++q)
    if (lse[q] != -std::numeric_limits<T>::infinity()) scratch.lse[q] = lse[q] * log2_e<T>;
  for (std::int64_t q = 0; q < block.queries; q += lanes<T>) {
    const std::int64_t rows = std::min<std::int64_t>(lanes<T>, block.queries - q);
    Vector<T> square[lanes<T>] = {};
    for (std::int64_t r = 0; r < rows; ++r)
      for_vectors<S>(0, shape.value_size, [&](std::int64_t d, int count) {
        const std::int64_t row = block.query + q + r;
        square[r] += load_wide(dout.row(row) + d, count) * load_wide(out.row(row) + d, count);
      });
    transpose<T>(square);
    for (int i = 1; i < lanes<T>; ++i) square[0] += square[i];
    store(scratch.delta + q, square[0]);
  }
}

/// weight = 2^(score - lse) and dscore = weight (dout value^T - delta), with the forward pass's mask and dropout.
template <class S>
void compute_gradient_tile(const GradientScratch<S>& scratch, const AttentionInputs& inputs, const Block& block,
                           HeadRows<const Compute<S>> key, HeadRows<const Compute<S>> value, RowPrefetch& prefetch) {
  using T = Compute<S>;
  const AttentionShape shape = attention_shape(inputs);
  multiply_and_prefetch<T, Operand::plain>(block.keys, block.queries, shape.head_size, key.data, key.stride,
                                           scratch.query, tile_stride, scratch.weight, tile_stride, false, prefetch);
  multiply_and_prefetch<T, Operand::plain>(block.keys, block.queries, shape.value_size, value.data, value.stride,
                                           scratch.dout, tile_stride, scratch.dscore, tile_stride, false, prefetch);
  mask_scores<T>({scratch.weight, tile_stride}, inputs, block);
  const bool drops = inputs.dropout > 0;
  if (drops) fill_kept<T>({scratch.kept, tile_stride}, inputs, block);
  for (std::int64_t q = 0; q < block.queries; q += lanes<T>) {
    const Vector<T> lse = load(scratch.lse + q), delta = load(scratch.delta + q);
    for (std::int64_t at = q; at < block.keys * tile_stride; at += tile_stride) {
      const Vector<T> weight = exp2<T>(load(scratch.weight + at) - lse), dweight = load(scratch.dscore + at);
      const Vector<T> kept = drops ? load(scratch.kept + at) : broadcast(T(1));
      store(scratch.weight + at, weight * kept);
      store(scratch.dscore + at, weight * (dweight * kept - delta));
    }
  }
}

}  // namespace imgrec::cpu
