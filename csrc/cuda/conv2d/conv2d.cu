// The convolution's contract on GPUs: which kernel serves a call, and the scratch memory it gets.
#include "cpu/workspace.h"
#include "cuda/conv2d/kernels.h"

namespace imgrec {
namespace cuda {
namespace {

std::int64_t compute_size(DType dtype) { return dtype == DType::float64 ? 8 : 4; }

/// Kernels keep positions, padding included, in 32 bits.
void check_extents(const Conv2dShape& shape) {
  for (const Conv2dAxis& axis : {shape.height, shape.width}) {
    const std::int64_t padded = axis.input + axis.padding_before + axis.padding_after;
    if (padded >= std::int64_t{1} << 31)
      throw KernelError("conv2d: an axis of the padded input has " + std::to_string(padded) +
                        " positions; GPU kernels take up to 2147483647");
  }
}

/// What backward_weight takes from its workspace.
struct WeightScratch {
  char *weight, *bias;
  std::int64_t bytes;

  WeightScratch(const Conv2dShape& shape, DType dtype, void* block) {
    cpu::Workspace workspace(block);
    const std::int64_t parts = weight_split(shape, 64).parts;
    const std::int64_t weights = shape.out_channels * shape.height.kernel * shape.width.kernel * shape.group_in();
    weight = workspace.take<char>(parts > 1 ? parts * weights * compute_size(dtype) : 0);
    bias = workspace.take<char>(bias_gradient_parts(shape) * shape.out_channels * compute_size(dtype));
    bytes = workspace.used();
  }
};

}  // namespace
}  // namespace cuda

Plan conv2d_plan(const Context&, const Conv2dShape& shape, DType dtype, Conv2dPass pass) {
  cuda::check_extents(shape);
  Plan plan{.algorithm = "implicit_gemm_simt"};
  if (pass == Conv2dPass::backward_weight) plan.workspace_bytes = cuda::WeightScratch(shape, dtype, nullptr).bytes;
  return plan;
}

void conv2d_forward(const Context& context, const Array& y, const Array& pre_activation, const Array& x,
                    const Array& weight, const Array& bias, const Conv2dShape& shape, Activation activation,
                    const Array&) {
  if (y.size() == 0) return;
  cuda::conv2d_simt(context, cuda::Conv2dForward{y, pre_activation, x, weight, bias, activation}, shape);
}

void conv2d_backward_input(const Context& context, const Array& dx, const Array& dy, const Array& weight,
                           const Conv2dShape& shape, const Array&) {
  if (dx.size() == 0) return;
  cuda::conv2d_simt(context, cuda::Conv2dBackwardInput{dx, dy, weight}, shape);
}

void conv2d_backward_weight(const Context& context, const Array& dweight, const Array& dbias, const Array& x,
                            const Array& dy, const Conv2dShape& shape, const Array& workspace) {
  const cuda::WeightScratch scratch(shape, dy.dtype, workspace.data);
  if (dbias.size() > 0) cuda::conv2d_bias_gradient(context, dbias, dy, shape, scratch.bias);
  if (dweight.size() > 0) cuda::conv2d_simt(context, cuda::Conv2dBackwardWeight{dweight, x, dy, scratch.weight}, shape);
}

}  // namespace imgrec
