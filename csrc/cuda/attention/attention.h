// Attention's kernels by algorithm: what attention.cu chooses from. Head comments of the .cu files say how each works.
#pragma once

#include "cuda/arch/numbers.h"
#include "ops/attention.h"

namespace imgrec::cuda {

/// What backward passes need of each query: (N, H, S_q) each, in the type that is computed in.
template <class T>
struct RowStatistics {
  T* lse;    // +inf for an empty row, so that all its weights are 0
  T* delta;  // the row's sum of dout out
};

/// Bytes of workspace that hold them.
std::int64_t row_statistics_bytes(const AttentionShape& shape, DType dtype);

/// Fills them; lse in multiples of `lse_unit`.
template <class S>
RowStatistics<Compute<S>> row_statistics(const Context& context, const Array& workspace, const Array& dout,
                                         const Array& out, const Array& lse, double lse_unit);

void attention_forward_simt(const Context& context, const Array& out, const Array& lse, const AttentionInputs& inputs);

void attention_backward_simt(const Context& context, const Array& dquery, const Array& dkey, const Array& dvalue,
                             const Array& dout, const Array& out, const Array& lse, const AttentionInputs& inputs,
                             const Array& workspace);

void attention_mask_backward_simt(const Context& context, const Array& dmask, const Array& dout, const Array& out,
                                  const Array& lse, const AttentionInputs& inputs, const Array& workspace);

void attention_forward_tensor_core(const Context& context, const Array& out, const Array& lse,
                                   const AttentionInputs& inputs);

void attention_backward_tensor_core(const Context& context, const Array& dquery, const Array& dkey, const Array& dvalue,
                                    const Array& dout, const Array& out, const Array& lse,
                                    const AttentionInputs& inputs, const Array& workspace);

}  // namespace imgrec::cuda
