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

  WeightScratch(const Conv2dShape& shape, DType dtype, bool tensor_cores, void* block) {
    cpu::Workspace workspace(block);
    const auto weights = [&](std::int64_t side) {
      const std::int64_t parts = weight_split(shape, side).parts;
      return parts > 1 ? parts * shape.out_channels * shape.taps() * compute_size(dtype) : 0;
    };
    // Arrays that are not aligned are served by the other kernel after all.
    const std::int64_t side = tensor_cores ? tensor_core_side(shape, Conv2dPass::backward_weight) : 64;
    weight = workspace.take<char>(std::max(weights(64), weights(side)));
    bias = workspace.take<char>(bias_gradient_parts(shape) * shape.out_channels * compute_size(dtype));
    bytes = workspace.used();
  }
};

template <class Arrays, class... Pointers>
void run(const Context& context, const Arrays& arrays, const Conv2dShape& shape, DType dtype, Pointers... pointers) {
  if (tensor_cores_serve(context, shape, dtype) && aligned_for_packs(pointers...))
    conv2d_tensor_core(context, arrays, shape);
  else
    conv2d_simt(context, arrays, shape);
}

}  // namespace
}  // namespace cuda

Plan conv2d_plan(const Context& context, const Conv2dShape& shape, DType dtype, Conv2dPass pass) {
  cuda::check_extents(shape);
  const bool tensor_cores = cuda::tensor_cores_serve(context, shape, dtype);
  Plan plan{.algorithm = tensor_cores ? "implicit_gemm_tensor_core" : "implicit_gemm_simt"};
  if (pass == Conv2dPass::backward_weight)
    plan.workspace_bytes = cuda::WeightScratch(shape, dtype, tensor_cores, nullptr).bytes;
  return plan;
}

void conv2d_forward(const Context& context, const Array& y, const Array& pre_activation, const Array& x,
                    const Array& weight, const Array& bias, const Conv2dShape& shape, Activation activation,
                    const Array&) {
  if (y.size() == 0) return;
  cuda::run(context, cuda::Conv2dForward{y, pre_activation, x, weight, bias, activation}, shape, y.dtype, x.data,
            weight.data);
}

void conv2d_backward_input(const Context& context, const Array& dx, const Array& dy, const Array& weight,
                           const Conv2dShape& shape, const Array&) {
  if (dx.size() == 0) return;
  cuda::run(context, cuda::Conv2dBackwardInput{dx, dy, weight}, shape, dx.dtype, dy.data, weight.data);
}

void conv2d_backward_weight(const Context& context, const Array& dweight, const Array& dbias, const Array& x,
                            const Array& dy, const Conv2dShape& shape, const Array& workspace) {
  const bool tensor_cores = cuda::tensor_cores_serve(context, shape, dy.dtype);
  const cuda::WeightScratch scratch(shape, dy.dtype, tensor_cores, workspace.data);
  if (dbias.size() > 0) cuda::conv2d_bias_gradient(context, dbias, dy, shape, scratch.bias);
  if (dweight.size() > 0)
    cuda::run(context, cuda::Conv2dBackwardWeight{dweight, x, dy, scratch.weight}, shape, dy.dtype, x.data, dy.data);
}

}  // namespace imgrec
