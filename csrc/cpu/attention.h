// What attention's forward and backward share: how heads are cut into blocks, how rows become tiles, and how a tile of
// scores is masked.
//
// All tiles are (key, query) with queries in the lanes of vectors, so that the softmax over keys is made of vertical
// operations only, and keys and values are read where they lie: a product broadcasts their elements.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/vector_io.h"
#include "cpu/workspace.h"
#include "ops/attention.h"

namespace imgrec::cpu {

// At most; whole vectors and blocks of the micro-kernel at every level. A vision transformer's 64 patches and its class
// token fit into one block.
inline constexpr std::int64_t query_block = 80, key_block = 80;
/// Elements from one row of a tile to the next: the queries of a block.
inline constexpr std::int64_t tile_stride = query_block;

template <class T>
constexpr std::int64_t round_to_lanes(std::int64_t count) {
  return round_up(count, lanes<T>);
}

/// Blocks as even as multiples of `step` allow, none longer than `most`.
constexpr std::int64_t even_block(std::int64_t length, std::int64_t most, std::int64_t step) {
  const std::int64_t count = std::max<std::int64_t>(1, (length + most - 1) / most);
  return std::max(step, round_up((length + count - 1) / count, step));
}

/// The rows of one sample and head.
template <class S>
struct HeadRows {
  S* data;
  std::int64_t stride;

  S* row(std::int64_t index) const { return data + index * stride; }
};

/// From an array (N, S, H, D) of any strides but the last.
template <class S>
HeadRows<S> head_rows(const Array& array, std::int64_t sample, std::int64_t head) {
  using Element = std::remove_const_t<S>;
  return {array.as<Element>() + sample * array.strides[0] + head * array.strides[2], array.strides[1]};
}

/// A tile's place in the matrix of scores.
struct Block {
  std::int64_t sample, head, query, queries, key, keys;
};

/// How many of the first keys any of the queries before `query_end` sees.
inline std::int64_t visible_keys(const AttentionInputs& inputs, std::int64_t query_end) {
  const std::int64_t keys = inputs.key.shape[1];
  return inputs.causal && query_end < keys ? query_end : keys;
}

/// to[d][q] = factor * from[first + q][d]: rows into lanes, zero where there are no more rows.
template <class S>
void pack_lanes(Compute<S>* to, HeadRows<const S> from, std::int64_t first, std::int64_t rows, std::int64_t size,
                Compute<S> factor);

/// to[first + q][d] = factor[q] * from[d][q]: lanes back into rows.
template <class S>
void unpack_lanes(HeadRows<S> to, std::int64_t first, const Compute<S>* from, std::int64_t rows, std::int64_t size,
                  const Compute<S>* factor);

/// to[q][d] = factor * from[first + q][d] in rows of whole vectors, zero beyond `size`.
template <class S>
void pack_rows(Compute<S>* to, HeadRows<const S> from, std::int64_t first, std::int64_t rows, std::int64_t size,
               Compute<S> factor);

/// `rows` rows from `first` on in the type to compute in: where they lie, or widened into `scratch`.
template <class S>
HeadRows<const Compute<S>> widened_rows(HeadRows<const S> from, std::int64_t first, std::int64_t rows,
                                        std::int64_t size, Compute<S>* scratch) {
  if constexpr (std::is_same_v<S, Compute<S>>) {
    return {from.row(first), from.stride};
  } else {
    pack_rows<S>(scratch, from, first, rows, size, 1);
    return {scratch, round_to_lanes<Compute<S>>(size)};
  }
}

/// Elements of scratch that widened_rows needs.
template <class S>
constexpr std::int64_t widened_size(std::int64_t rows, std::int64_t size) {
  return std::is_same_v<S, Compute<S>> ? 0 : rows * round_to_lanes<Compute<S>>(size);
}

/// The same, readable by whole vectors: rows that end within a vector are copied too.
template <class S>
HeadRows<const Compute<S>> whole_rows(HeadRows<const S> from, std::int64_t first, std::int64_t rows, std::int64_t size,
                                      Compute<S>* scratch) {
  if (size % lanes<Compute<S>> == 0) return widened_rows<S>(from, first, rows, size, scratch);
  pack_rows<S>(scratch, from, first, rows, size, 1);
  return {scratch, round_to_lanes<Compute<S>>(size)};
}

/// Adds the mask to a tile of scores in powers of two; what a boolean mask or causality hides becomes -inf.
template <class T>
void mask_scores(HeadRows<T> tile, const AttentionInputs& inputs, const Block& block);

/// Fills a tile with 1 / (1 - dropout) where an element is kept, 0 where it is dropped.
template <class T>
void fill_kept(HeadRows<T> tile, const AttentionInputs& inputs, const Block& block);

}  // namespace imgrec::cpu
