// What all attention kernels share: how they are told of the arrays, and what mask and dropout do to one element.
#pragma once

#include "cuda/arch/cuda.h"
#include "cuda/arch/numbers.h"
#include "cuda/arch/warp.h"
#include "ops/attention.h"
#include "ops/philox.h"

namespace imgrec::cuda {

__device__ __forceinline__ float infinity() { return __uint_as_float(0x7F800000u); }

/// Consecutive rows of one sample and head.
template <class S>
struct RowTile {
  S* data;
  std::int64_t stride;
  int count;
};

/// An array (N, S, H, D) of any strides but the last.
template <class S>
struct Rows {
  S* data;
  std::int64_t sample_stride, row_stride, head_stride, length;

  explicit Rows(const Array& array)
      : data(array.as<S>()),
        sample_stride(array.strides[0]),
        row_stride(array.strides[1]),
        head_stride(array.strides[2]),
        length(array.shape[1]) {}

  /// At most `count` rows from `first` on.
  __device__ __forceinline__ RowTile<S> tile(std::int64_t sample, std::int64_t head, std::int64_t first,
                                             int count) const {
    return {data + sample * sample_stride + head * head_stride + first * row_stride, row_stride,
            static_cast<int>(min(static_cast<std::int64_t>(count), length - first))};
  }
};

/// All that decides over scores and weights besides query and key.
struct ScoreRules {
  AttentionShape shape;
  const void* mask;  // or null
  std::int64_t mask_strides[4];
  bool boolean_mask, causal;
  double scale;
  const std::int64_t* state;  // null without dropout
  float dropout;
  double kept_scale;  // what a weight that is kept is multiplied by

  explicit ScoreRules(const AttentionInputs& inputs)
      : shape(attention_shape(inputs)),
        mask(inputs.mask ? inputs.mask.data : nullptr),
        boolean_mask(inputs.mask.dtype == DType::boolean),
        causal(inputs.causal),
        scale(inputs.scale),
        state(inputs.dropout > 0 ? inputs.state.as<const std::int64_t>() : nullptr),
        dropout(static_cast<float>(inputs.dropout)),
        kept_scale(inputs.dropout < 1 ? 1 / (1 - inputs.dropout) : 0) {
    for (int i = 0; i < 4; ++i) mask_strides[i] = inputs.mask.strides[i];
  }
};

/// The matrix of scores of one sample and head: what stands at (query, key).
template <class S>
struct ScoreMatrix {
  using T = Compute<S>;

  const ScoreRules& rules;
  std::int64_t sample, head;

  __device__ __forceinline__ ScoreMatrix(const ScoreRules& rules_, std::int64_t sample_, std::int64_t head_)
      : rules(rules_), sample(sample_), head(head_) {}

  __device__ __forceinline__ std::int64_t kv_head() const { return head / (rules.shape.heads / rules.shape.kv_heads); }

  /// The place of a row in arrays (N, H, S_q).
  __device__ __forceinline__ std::int64_t row(std::int64_t query) const {
    return (sample * rules.shape.heads + head) * rules.shape.queries + query;
  }

  /// How many of the first keys any query before `query_end` sees.
  __device__ __forceinline__ std::int64_t visible_keys(std::int64_t query_end) const {
    return rules.causal ? min(query_end, rules.shape.keys) : rules.shape.keys;
  }

  /// Whether each of `queries` sees each of `keys`, and nothing is added: no element has to be looked at.
  __device__ __forceinline__ bool plain(std::int64_t query, int queries, std::int64_t key, int keys) const {
    return !rules.mask && query + queries <= rules.shape.queries && key + keys <= rules.shape.keys &&
           (!rules.causal || key + keys <= query + 1);
  }

  /// Whether the query sees the key, and both exist.
  __device__ __forceinline__ bool visible(std::int64_t query, std::int64_t key) const {
    if (query >= rules.shape.queries || key >= rules.shape.keys || (rules.causal && key > query)) return false;
    return !rules.mask || !rules.boolean_mask || static_cast<const bool*>(rules.mask)[mask_at(query, key)];
  }

  /// Whether something is added to the scores.
  __device__ __forceinline__ bool additive() const { return rules.mask && !rules.boolean_mask; }

  /// Where the mask's element lies.
  __device__ __forceinline__ std::int64_t mask_at(std::int64_t query, std::int64_t key) const {
    const std::int64_t* strides = rules.mask_strides;
    return sample * strides[0] + head * strides[1] + query * strides[2] + key * strides[3];
  }
};

/// Which weights dropout keeps. Elements that follow each other share Philox counters, so the words that were drawn
/// last are held.
class Dropout {
 public:
  /// Without dropout it must not be asked.
  __device__ __forceinline__ explicit Dropout(const ScoreRules& rules)
      : seed_(rules.state ? static_cast<std::uint64_t>(rules.state[0]) : 0),
        offset_(rules.state ? static_cast<std::uint64_t>(rules.state[1]) : 0),
        threshold_(rules.dropout) {}

  /// Whether element `index` of (N, H, S_q, S_k) is kept.
  __device__ __forceinline__ bool keeps(std::int64_t index) {
    if (index / 4 != counter_) {
      counter_ = index / 4;
      words_ = philox(seed_, offset_, static_cast<std::uint64_t>(counter_));
    }
    // Selected, not indexed: an index that is not a constant would push the words out of registers.
    const std::uint32_t low = index & 1 ? words_.word[1] : words_.word[0];
    const std::uint32_t high = index & 1 ? words_.word[3] : words_.word[2];
    return uniform_float(index & 2 ? high : low) >= threshold_;
  }

 private:
  std::uint64_t seed_, offset_;
  float threshold_;
  std::int64_t counter_ = -1;
  PhiloxWords words_ = {};
};

}  // namespace imgrec::cuda
