// The convolution's contract on GPUs: which kernel serves a call, and the scratch memory it gets.
#include <stdexcept>

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

enum class Algorithm { simt, tensor_core, stem, depthwise };

Algorithm algorithm_of(const Context& context, const Conv2dShape& shape, DType dtype, Conv2dPass pass) {
  if (depthwise_serves(shape, dtype)) return Algorithm::depthwise;
  if (tensor_cores_serve(context, shape, dtype, pass)) return Algorithm::tensor_core;
  if (pass == Conv2dPass::forward && stem_serves(context, shape, dtype)) return Algorithm::stem;
  return Algorithm::simt;
}

const char* name_of(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::tensor_core:
      return "implicit_gemm_tensor_core";
    case Algorithm::stem:
      return "stem";
    case Algorithm::depthwise:
      return "depthwise";
    default:
      return "implicit_gemm_simt";
  }
}

/// What backward_weight takes from its workspace.
struct WeightScratch {
  char *weight, *bias;
  std::int64_t bytes;

  WeightScratch(const Conv2dShape& shape, DType dtype, Algorithm algorithm, void* block) {
    cpu::Workspace workspace(block);
    const auto product_parts = [&](std::int64_t side) {
      const std::int64_t parts = weight_split(shape, side).parts;
      return parts > 1 ? parts : 0;
    };
    // Arrays that are not aligned for tensor cores are served without them.
    std::int64_t parts = product_parts(64);
    if (algorithm == Algorithm::depthwise) parts = depthwise_weight_parts(shape);
    if (algorithm == Algorithm::tensor_core)
      parts = std::max(parts, product_parts(tensor_core_side(shape, Conv2dPass::backward_weight)));
    weight = workspace.take<char>(parts * shape.out_channels * shape.taps() * compute_size(dtype));
    bias = workspace.take<char>(bias_gradient_parts(shape) * shape.out_channels * compute_size(dtype));
    bytes = workspace.used();
  }
};

/// aligned: whether what is read by packs can be.
template <class Arrays>
void run(const Context& context, const Arrays& arrays, const Conv2dShape& shape, Algorithm algorithm, bool aligned) {
  if (algorithm == Algorithm::depthwise) return conv2d_depthwise(context, arrays, shape);
  if (algorithm == Algorithm::tensor_core && aligned) return conv2d_tensor_core(context, arrays, shape);
  if constexpr (std::is_same_v<Arrays, Conv2dForward>)
    if (algorithm == Algorithm::stem) return conv2d_stem(context, arrays, shape);
  conv2d_simt(context, arrays, shape);
}

}  // namespace
}  // namespace cuda

Plan conv2d_plan(const Context& context, const Conv2dShape& shape, DType dtype, Conv2dPass pass) {
  if (shape.algorithm == Conv2dAlgorithm::winograd)
    throw std::invalid_argument("conv2d: algorithm is 'winograd', which only the CPU has; expected None or 'direct'");
  cuda::check_extents(shape);
  const cuda::Algorithm algorithm = cuda::algorithm_of(context, shape, dtype, pass);
  Plan plan{.algorithm = cuda::name_of(algorithm)};
  if (pass == Conv2dPass::backward_weight)
    plan.workspace_bytes = cuda::WeightScratch(shape, dtype, algorithm, nullptr).bytes;
  return plan;
}

/// No plan asks for packed weights: tiles of them are laid out in shared memory.
void conv2d_pack(const Context&, const Array&, const Array&, const Conv2dShape&, Conv2dPass) {}

void conv2d_forward(const Context& context, const Array& y, const Array& pre_activation, const Array& x,
                    const Array& weight, const Array&, const Array& bias, const Conv2dShape& shape,
                    Activation activation, const Array&) {
  if (y.size() == 0) return;
  cuda::run(context, cuda::Conv2dForward{y, pre_activation, x, weight, bias, activation}, shape,
            cuda::algorithm_of(context, shape, y.dtype, Conv2dPass::forward),
            cuda::aligned_for_packs(x.data, weight.data));
}

void conv2d_backward_input(const Context& context, const Array& dx, const Array& dy, const Array& weight, const Array&,
                           const Conv2dShape& shape, const Array&) {
  if (dx.size() == 0) return;
  cuda::run(context, cuda::Conv2dBackwardInput{dx, dy, weight}, shape,
            cuda::algorithm_of(context, shape, dx.dtype, Conv2dPass::backward_input),
            cuda::aligned_for_packs(dy.data, weight.data));
}

void conv2d_backward_weight(const Context& context, const Array& dweight, const Array& dbias, const Array& x,
                            const Array& dy, const Conv2dShape& shape, const Array& workspace) {
  const cuda::Algorithm algorithm = cuda::algorithm_of(context, shape, dy.dtype, Conv2dPass::backward_weight);
  const cuda::WeightScratch scratch(shape, dy.dtype, algorithm, workspace.data);
  if (dbias.size() > 0) cuda::conv2d_bias_gradient(context, dbias, dy, shape, scratch.bias);
  if (dweight.size() > 0)
    cuda::run(context, cuda::Conv2dBackwardWeight{dweight, x, dy, scratch.weight}, shape, algorithm,
              cuda::aligned_for_packs(x.data, dy.data));
}

}  // namespace imgrec
