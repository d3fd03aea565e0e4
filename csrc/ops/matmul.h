// Batched matrix product: c[b] = activation(a[b] b[b] + bias + residual[b]).
//   a (B, M, K)  any strides, so transposed and broadcast operands need no copy
//   b (B, K, N)  any strides
//   c (B, M, N)  contiguous
//   bias (N,)    contiguous, optional
//   residual     as c, optional
// float32, float64, float16, bfloat16; the 16-bit types accumulate in float32.
#pragma once

#include "ops/activation.h"

namespace imgrec {

struct MatmulShape {
  std::int64_t batch, m, n, k;
};

Plan matmul_plan(const Context& context, const MatmulShape& shape, DType dtype);

/// Packs b; nothing where the plan asks for no packed bytes.
void matmul_pack(const Context& context, const Array& packed, const Array& b, const MatmulShape& shape);

/// packed: from matmul_pack; not looked at where the plan asks for none.
void matmul(const Context& context, const Array& c, const Array& a, const Array& b, const Array& packed,
            const Array& bias, const Array& residual, Activation activation, const Array& workspace);

}  // namespace imgrec
