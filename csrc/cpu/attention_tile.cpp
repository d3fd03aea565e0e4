#include <limits>

#include "cpu/attention.h"
#include "cpu/attention_softmax.h"
#include "ops/philox.h"

namespace imgrec::cpu {
namespace {

template <class T>
constexpr T infinity = std::numeric_limits<T>::infinity();

/// What a mask's element adds to a score.
template <class T>
T bias(bool keep) {
  return keep ? T(0) : -infinity<T>;
}
template <class T, class M>
T bias(M value) {
  return widen(value) * log2_e<T>;
}

/// One row of the mask for all queries, as key padding has: no transposition.
template <class T, class M>
void add_common_mask(HeadRows<T> tile, const M* from, std::int64_t key_stride, const Block& block) {
  for (std::int64_t k = 0; k < block.keys; ++k) {
    const T value = bias<T>(from[k * key_stride]);
    for (std::int64_t q = 0; q < block.queries; q += lanes<T>) store(tile.row(k) + q, load(tile.row(k) + q) + value);
  }
}

/// A row of the mask for each query: squares of it are read along the keys and transposed into the lanes.
template <class T, class M>
void add_own_mask(HeadRows<T> tile, const M* from, std::int64_t query_stride, std::int64_t key_stride,
                  const Block& block) {
  for (std::int64_t q = 0; q < block.queries; q += lanes<T>) {
    const std::int64_t rows = std::min<std::int64_t>(lanes<T>, block.queries - q);
    for (std::int64_t k = 0; k < block.keys; k += lanes<T>) {
      const std::int64_t count = std::min<std::int64_t>(lanes<T>, block.keys - k);
      Vector<T> square[lanes<T>] = {};
      for (std::int64_t r = 0; r < rows; ++r) {
        const M* row = from + (q + r) * query_stride + k * key_stride;
        T values[lanes<T>] = {};
        for (std::int64_t i = 0; i < count; ++i) values[i] = bias<T>(row[i * key_stride]);
        square[r] = load(values);
      }
      transpose<T>(square);
      for (std::int64_t i = 0; i < count; ++i) {
        T* to = tile.row(k + i) + q;
        store(to, load(to) + square[i]);
      }
    }
  }
}

template <class T, class M>
void add_mask(HeadRows<T> tile, const Array& mask, const Block& block) {
  const std::int64_t* strides = mask.strides;
  const M* from = mask.as<const M>() + block.sample * strides[0] + block.head * strides[1] + block.query * strides[2] +
                  block.key * strides[3];
  if (strides[2] == 0)
    add_common_mask(tile, from, strides[3], block);
  else
    add_own_mask(tile, from, strides[2], strides[3], block);
}

template <class T>
void hide_later_keys(HeadRows<T> tile, const Block& block) {
  const Vector<T> lane = lane_numbers<T>();
  for (std::int64_t k = std::max<std::int64_t>(0, block.query - block.key); k < block.keys; ++k) {
    const auto first = static_cast<T>(block.key + k - block.query);  // the first query of the block that sees this key
    for (std::int64_t q = 0; q < block.queries; q += lanes<T>) {
      T* to = tile.row(k) + q;
      store(to, lane + static_cast<T>(q) < first ? broadcast(-infinity<T>) : load(to));
    }
  }
}

}  // namespace

template <class S>
void pack_lanes(Compute<S>* to, HeadRows<const S> from, std::int64_t first, std::int64_t rows, std::int64_t size,
                Compute<S> factor) {
  using T = Compute<S>;
  for (std::int64_t q = 0; q < rows; q += lanes<T>) {
    const std::int64_t present = std::min<std::int64_t>(lanes<T>, rows - q);
    for_vectors<S>(0, size, [&](std::int64_t d, int count) {
      Vector<T> square[lanes<T>] = {};
      for (std::int64_t r = 0; r < present; ++r) square[r] = factor * load_wide(from.row(first + q + r) + d, count);
      transpose<T>(square);
      for (int i = 0; i < count; ++i) store(to + (d + i) * tile_stride + q, square[i]);
    });
  }
}

template <class S>
void unpack_lanes(HeadRows<S> to, std::int64_t first, const Compute<S>* from, std::int64_t rows, std::int64_t size,
                  const Compute<S>* factor) {
  using T = Compute<S>;
  for (std::int64_t q = 0; q < rows; q += lanes<T>) {
    const std::int64_t present = std::min<std::int64_t>(lanes<T>, rows - q);
    const Vector<T> factors = load(factor + q);
    for_vectors<S>(0, size, [&](std::int64_t d, int count) {
      Vector<T> square[lanes<T>] = {};
      for (int i = 0; i < count; ++i) square[i] = factors * load(from + (d + i) * tile_stride + q);
      transpose<T>(square);
      for (std::int64_t r = 0; r < present; ++r) store_narrow(to.row(first + q + r) + d, square[r], count);
    });
  }
}

template <class S>
void pack_rows(Compute<S>* to, HeadRows<const S> from, std::int64_t first, std::int64_t rows, std::int64_t size,
               Compute<S> factor) {
  const std::int64_t stride = round_to_lanes<Compute<S>>(size);
  for (std::int64_t r = 0; r < rows; ++r)
    for_vectors<S>(0, size, [&](std::int64_t d, int count) {
      store(to + r * stride + d, factor * load_wide(from.row(first + r) + d, count));
    });
}

template <class T>
void mask_scores(HeadRows<T> tile, const AttentionInputs& inputs, const Block& block) {
  const Array& mask = inputs.mask;
  if (mask && mask.dtype == DType::boolean)
    add_mask<T, bool>(tile, mask, block);
  else if (mask)
    for_floating(mask.dtype, [&](auto tag) {
      if constexpr (std::is_same_v<T, Compute<decltype(tag)>>) add_mask<T, decltype(tag)>(tile, mask, block);
    });
  if (inputs.causal && block.key + block.keys > block.query + 1) hide_later_keys(tile, block);
}

template <class T>
void fill_kept(HeadRows<T> tile, const AttentionInputs& inputs, const Block& block) {
  const AttentionShape shape = attention_shape(inputs);
  const auto* state = inputs.state.as<const std::int64_t>();
  const auto seed = static_cast<std::uint64_t>(state[0]), offset = static_cast<std::uint64_t>(state[1]);
  const auto threshold = static_cast<float>(inputs.dropout);
  const T scale = inputs.dropout < 1 ? T(1 / (1 - inputs.dropout)) : T(0);
  for (std::int64_t q = 0; q < block.queries; ++q) {
    const std::int64_t row = (block.sample * shape.heads + block.head) * shape.queries + block.query + q;
    const std::int64_t first = row * shape.keys + block.key, last = first + block.keys;
    for (std::int64_t counter = first / 4; counter * 4 < last; ++counter) {
      const PhiloxWords words = philox(seed, offset, static_cast<std::uint64_t>(counter));
      const std::int64_t begin = std::max(first, counter * 4), end = std::min(last, counter * 4 + 4);
      for (std::int64_t i = begin; i < end; ++i)
        tile.row(i - first)[q] = uniform_float(words.word[i - counter * 4]) >= threshold ? scale : T(0);
    }
  }
}

#define IMGREC_INSTANTIATE_STORAGE(S)                                                                                \
  template void pack_lanes<S>(Compute<S>*, HeadRows<const S>, std::int64_t, std::int64_t, std::int64_t, Compute<S>); \
  template void unpack_lanes<S>(HeadRows<S>, std::int64_t, const Compute<S>*, std::int64_t, std::int64_t,            \
                                const Compute<S>*);                                                                  \
  template void pack_rows<S>(Compute<S>*, HeadRows<const S>, std::int64_t, std::int64_t, std::int64_t, Compute<S>);
IMGREC_INSTANTIATE_STORAGE(float)
IMGREC_INSTANTIATE_STORAGE(double)
IMGREC_INSTANTIATE_STORAGE(Float16)
IMGREC_INSTANTIATE_STORAGE(BFloat16)
#undef IMGREC_INSTANTIATE_STORAGE

#define IMGREC_INSTANTIATE(T)                                                      \
  template void mask_scores<T>(HeadRows<T>, const AttentionInputs&, const Block&); \
  template void fill_kept<T>(HeadRows<T>, const AttentionInputs&, const Block&);
IMGREC_INSTANTIATE(float)
IMGREC_INSTANTIATE(double)
#undef IMGREC_INSTANTIATE

}  // namespace imgrec::cpu
