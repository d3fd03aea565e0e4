// Scaled dot-product attention: out = dropout(softmax(scale query key^T + mask)) value, for each sample and head.
//
//   query  (N, S_q, H, D)      key (N, S_k, H_kv, D)      value (N, S_k, H_kv, E)      out (N, S_q, H, E)
//   mask   (N, H, S_q, S_k), any strides (0 where it was broadcast): boolean, True keeps; or of the inputs' dtype,
//   added state  int64 [seed, offset] of the dropout's random numbers: element i of (N, H, S_q, S_k) belongs to counter
//   i / 4 lse    (N, H, S_q), float32, or float64 for float64 inputs: log of the sum of exp(score), -inf for an empty
//   row
//
// query, key and value have any strides but the last, which is 1. H is a multiple of H_kv: consecutive heads share one.
// `causal` lets query i see keys 0..i. A row with no key to see gives zeros. The S_q x S_k matrix is never stored.
// float32, float64, float16, bfloat16; the 16-bit types are computed in float32.
#pragma once

#include "ops/array.h"

namespace imgrec {

struct AttentionShape {
  std::int64_t batch, heads, kv_heads, queries, keys, head_size, value_size;
};

struct AttentionInputs {
  Array query, key, value;
  Array mask;   // or none
  Array state;  // none where dropout is 0
  double scale;
  bool causal;
  double dropout;
};

inline AttentionShape attention_shape(const AttentionInputs& inputs) {
  const std::int64_t *query = inputs.query.shape, *key = inputs.key.shape;
  return {query[0], query[2], key[2], query[1], key[1], query[3], inputs.value.shape[3]};
}

Plan attention_forward_plan(const Context& context, const AttentionShape& shape, DType dtype);

/// out and lse are contiguous.
void attention_forward(const Context& context, const Array& out, const Array& lse, const AttentionInputs& inputs,
                       const Array& workspace);

Plan attention_backward_plan(const Context& context, const AttentionShape& shape, DType dtype);

/// All but the inputs are contiguous.
void attention_backward(const Context& context, const Array& dquery, const Array& dkey, const Array& dvalue,
                        const Array& dout, const Array& out, const Array& lse, const AttentionInputs& inputs,
                        const Array& workspace);

Plan attention_mask_backward_plan(const Context& context, const AttentionShape& shape, DType dtype);

/// dmask (N or 1, H or 1, S_q or 1, S_k or 1), contiguous: the additive mask's gradient, summed where it is 1.
void attention_mask_backward(const Context& context, const Array& dmask, const Array& dout, const Array& out,
                             const Array& lse, const AttentionInputs& inputs, const Array& workspace);

}  // namespace imgrec
