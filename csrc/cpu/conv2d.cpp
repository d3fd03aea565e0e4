#include "cpu/conv2d.h"

#include <cstring>
#include <stdexcept>

#include "cpu/conv2d_passes.h"

namespace imgrec {

Plan conv2d_plan(const Context& context, const Conv2dShape& shape, DType dtype, Conv2dPass pass) {
  if (shape.algorithm == Conv2dAlgorithm::winograd && !cpu::winograd_serves(shape, dtype))
    throw std::invalid_argument(
        "conv2d: algorithm is 'winograd', which serves stride 1, filters of 3x3 or 5x5, 16 channels or more on both "
        "sides of each group, and no float64; expected None or 'direct' for this convolution");
  if (cpu::winograd_chosen(shape, dtype, pass)) {
    cpu::Workspace workspace;
    if (pass == Conv2dPass::backward_weight)
      cpu::WinogradWeightPass(context, shape, workspace);
    else
      cpu::WinogradProduct(context, shape, pass, workspace);
    return {.algorithm = "winograd", .workspace_bytes = workspace.used()};
  }
  Plan plan{.algorithm = "direct"};
  cpu::for_compute(dtype, [&](auto tag) {
    using T = decltype(tag);
    plan.workspace_bytes = cpu::workspace_bytes<T>(context, shape, dtype, pass);
    if (pass == Conv2dPass::backward_weight) return;
    cpu::Workspace packed;
    cpu::PackedWeights<T>(shape, dtype, pass, packed);
    plan.packed_bytes = packed.used();
  });
  return plan;
}

void conv2d_pack(const Context& context, const Array& packed, const Array& weight, const Conv2dShape& shape,
                 Conv2dPass pass) {
  cpu::for_compute(weight.dtype, [&](auto tag) {
    cpu::Workspace memory(packed.data);
    cpu::PackedWeights<decltype(tag)>(shape, weight.dtype, pass, memory).pack(context, weight);
  });
}

void conv2d_forward(const Context& context, const Array& y, const Array& pre_activation, const Array& x,
                    const Array& weight, const Array& packed, const Array& bias, const Conv2dShape& shape,
                    Activation activation, const Array& workspace) {
  if (cpu::winograd_chosen(shape, y.dtype, Conv2dPass::forward)) {
    cpu::Workspace memory(workspace.data);
    const cpu::WinogradProduct product(context, shape, Conv2dPass::forward, memory);
    return product.run(context, x, weight, {y, pre_activation, bias, activation});
  }
  cpu::for_compute(y.dtype, [&](auto tag) {
    using T = decltype(tag);
    cpu::Workspace memory(workspace.data), packed_memory(packed.data);
    const cpu::PackedWeights<T> weights(shape, y.dtype, Conv2dPass::forward, packed_memory);
    if (cpu::grouped_serves<T>(shape, Conv2dPass::forward)) {
      const cpu::GroupedProduct<T> product(context, shape, Conv2dPass::forward, memory);
      return product.run(context, x, weights.data(), {y, pre_activation, bias, activation});
    }
    cpu::ForwardPass<T> pass(context, shape, y.dtype, memory);
    const cpu::Output<T> output{.data = y.data,
                                .dtype = y.dtype,
                                .height = y.shape[1],
                                .width = y.shape[2],
                                .channels = shape.out_channels,
                                .bias = pass.bias.read(bias),
                                .pre_activation = pre_activation.data,
                                .activation = activation};
    pass.product.run(context, pass.x.read(context, x), weights.data(), output);
  });
}

void conv2d_backward_input(const Context& context, const Array& dx, const Array& dy, const Array& weight,
                           const Array& packed, const Conv2dShape& shape, const Array& workspace) {
  if (cpu::winograd_chosen(shape, dx.dtype, Conv2dPass::backward_input)) {
    cpu::Workspace memory(workspace.data);
    const cpu::WinogradProduct product(context, shape, Conv2dPass::backward_input, memory);
    return product.run(context, dy, weight, {.result = dx});
  }
  cpu::for_compute(dx.dtype, [&](auto tag) {
    using T = decltype(tag);
    cpu::Workspace memory(workspace.data), packed_memory(packed.data);
    const cpu::PackedWeights<T> weights(shape, dx.dtype, Conv2dPass::backward_input, packed_memory);
    if (cpu::grouped_serves<T>(shape, Conv2dPass::backward_input)) {
      const cpu::GroupedProduct<T> product(context, shape, Conv2dPass::backward_input, memory);
      return product.run(context, dy, weights.data(), {.result = dx});
    }
    cpu::BackwardInputPass<T> pass(context, shape, dx.dtype, memory);
    cpu::Patches<T> patches = pass.dy.read(context, dy);
    if (pass.narrow) return pass.narrow->run(context, dx, patches, weights.data());
    const T* phase = weights.data();
    cpu::Output<T> output{.data = dx.data,
                          .dtype = dx.dtype,
                          .height = shape.height.input,
                          .width = shape.width.input,
                          .channels = shape.in_channels,
                          .row_step = shape.height.stride,
                          .column_step = shape.width.stride};
    cpu::for_phases(shape,
                    [&](std::int64_t i, std::int64_t j, const cpu::PhaseAxis& height, const cpu::PhaseAxis& width) {
                      output.row_start = i;
                      output.column_start = j;
                      patches.height = height.axis;
                      patches.width = width.axis;
                      pass.product->run(context, patches, phase, output);
                      phase += weights.part_size(height.axis.taps * width.axis.taps);
                    });
  });
}

void conv2d_backward_weight(const Context& context, const Array& dweight, const Array& dbias, const Array& x,
                            const Array& dy, const Conv2dShape& shape, const Array& workspace) {
  if (dy.size() == 0) {
    for (const Array& gradient : {dweight, dbias})
      if (gradient.size() > 0) std::memset(gradient.data, 0, gradient.size() * size_of(gradient.dtype));
    return;
  }
  if (cpu::winograd_chosen(shape, dy.dtype, Conv2dPass::backward_weight)) {
    cpu::Workspace memory(workspace.data);
    const cpu::WinogradWeightPass pass(context, shape, memory);
    if (dbias) pass.bias.run(context, dbias, dy);
    if (dweight) pass.weight.run(context, dweight, x, dy);
    return;
  }
  cpu::for_compute(dy.dtype, [&](auto tag) {
    using T = decltype(tag);
    cpu::Workspace memory(workspace.data);
    const bool weighted = dweight && dweight.size() > 0;
    if (cpu::grouped_serves<T>(shape, Conv2dPass::backward_weight)) {
      const cpu::GroupedWeightPass<T> pass(context, shape, memory);
      if (dbias) pass.bias.run(context, dbias, dy);
      if (weighted) pass.weight.run(context, dweight, x, dy);
      return;
    }
    cpu::BackwardWeightPass<T> pass(context, shape, dy.dtype, memory);
    if (dbias) pass.bias.run(context, dbias, dy);
    if (!weighted) return;
    const cpu::Patches<T>& patches = pass.x.read(context, x);
    if (pass.dense)
      pass.dense->run(context, dweight, patches, dy);
    else
      pass.depthwise->run(context, dweight, patches, pass.dy->read(context, dy));
  });
}

}  // namespace imgrec
