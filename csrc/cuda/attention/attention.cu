// Which kernels compute attention. 16-bit numbers with heads of up to 256 go to the tensor cores, all else to the exact
// kernels; the additive mask's gradient is seldom asked for and has exact kernels only.
#include "cuda/attention/attention.h"

namespace imgrec {
namespace {

bool on_tensor_cores(const AttentionShape& shape, DType dtype) {
  return size_of(dtype) == 2 && shape.head_size <= 256 && shape.value_size <= 256;
}

/// Tiles of 64 rows lie along the grid's y, and kernels count rows in 32 bits.
void check_extents(const AttentionShape& shape) {
  constexpr std::int64_t most = 65535 * 64;
  const std::int64_t longest = shape.queries > shape.keys ? shape.queries : shape.keys;
  if (longest > most)
    throw KernelError("attention: a sequence has " + std::to_string(longest) + " positions; GPU kernels take up to " +
                      std::to_string(most));
}

Plan plan(const AttentionShape& shape, DType dtype, std::int64_t workspace_bytes) {
  check_extents(shape);
  return {.algorithm = on_tensor_cores(shape, dtype) ? "tiled_tensor_core" : "tiled_simt",
          .workspace_bytes = workspace_bytes};
}

}  // namespace

Plan attention_forward_plan(const Context&, const AttentionShape& shape, DType dtype) { return plan(shape, dtype, 0); }

Plan attention_backward_plan(const Context&, const AttentionShape& shape, DType dtype) {
  return plan(shape, dtype, cuda::row_statistics_bytes(shape, dtype));
}

Plan attention_mask_backward_plan(const Context&, const AttentionShape& shape, DType dtype) {
  return {.algorithm = "tiled_simt", .workspace_bytes = cuda::row_statistics_bytes(shape, dtype)};
}

void attention_forward(const Context& context, const Array& out, const Array& lse, const AttentionInputs& inputs,
                       const Array&) {
  if (lse.size() == 0) return;
  const bool fast = on_tensor_cores(attention_shape(inputs), out.dtype);
  (fast ? cuda::attention_forward_tensor_core : cuda::attention_forward_simt)(context, out, lse, inputs);
}

void attention_backward(const Context& context, const Array& dquery, const Array& dkey, const Array& dvalue,
                        const Array& dout, const Array& out, const Array& lse, const AttentionInputs& inputs,
                        const Array& workspace) {
  const bool fast = on_tensor_cores(attention_shape(inputs), out.dtype);
  (fast ? cuda::attention_backward_tensor_core : cuda::attention_backward_simt)(context, dquery, dkey, dvalue, dout,
                                                                                out, lse, inputs, workspace);
}

void attention_mask_backward(const Context& context, const Array& dmask, const Array& dout, const Array& out,
                             const Array& lse, const AttentionInputs& inputs, const Array& workspace) {
  if (dmask.size() == 0) return;
  cuda::attention_mask_backward_simt(context, dmask, dout, out, lse, inputs, workspace);
}

}  // namespace imgrec
