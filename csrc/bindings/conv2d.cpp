#include "ops/conv2d.h"

#include <array>

#include "bindings/activation.h"

namespace imgrec::bindings {
namespace {

using Pair = std::array<std::int64_t, 2>;
using Shape = std::array<std::int64_t, 4>;

/// What Python says about a convolution besides its arrays: (height, width) pairs, padding as (before, after) pairs.
struct Conv2dParameters {
  Pair stride;
  std::array<Pair, 2> padding;
  Pair dilation;
  std::int64_t groups;
  Conv2dAlgorithm algorithm;

  Conv2dShape shape(const Shape& x, const Shape& weight) const {
    const auto axis = [&](std::size_t i) {
      return Conv2dAxis{x[1 + i], weight[1 + i], stride[i], padding[i][0], padding[i][1], dilation[i]};
    };
    return {x[0], x[3], weight[0], groups, axis(0), axis(1), algorithm};
  }
};

Conv2dAlgorithm algorithm_named(const std::string& name) {
  if (name.empty()) return Conv2dAlgorithm::automatic;
  if (name == "direct") return Conv2dAlgorithm::direct;
  if (name == "winograd") return Conv2dAlgorithm::winograd;
  throw py::value_error("conv2d: algorithm is '" + name + "', expected None, 'direct' or 'winograd'");
}

constexpr std::int64_t largest_extent = std::int64_t{1} << 31;

void check_axis(const Check& check, const char* name, const Conv2dAxis& axis) {
  const auto refuse = [&](const char* what, std::int64_t seen, const char* expected) {
    check.shape_error(std::string(what) + " along the " + name + " is " + std::to_string(seen) + ", expected " +
                      expected);
  };
  // The bounds keep products of two of these, and sums of such, within 64 bits.
  if (axis.stride < 1 || axis.stride > largest_extent) refuse("stride", axis.stride, "1 or more");
  if (axis.dilation < 1 || axis.dilation > largest_extent) refuse("dilation", axis.dilation, "1 or more");
  if (axis.kernel < 1 || axis.kernel > largest_extent) refuse("the kernel", axis.kernel, "1 or more");
  for (const std::int64_t padding : {axis.padding_before, axis.padding_after})
    if (padding < 0 || padding > largest_extent) refuse("padding", padding, "0 or more");
  if (axis.input < 0 || axis.input > largest_extent) refuse("the input", axis.input, "0 to 2147483648");
  const std::int64_t padded = axis.input + axis.padding_before + axis.padding_after;
  const std::int64_t reach = axis.dilation * (axis.kernel - 1) + 1;
  if (reach > padded)
    check.shape_error("the kernel reaches over " + std::to_string(reach) + " positions along the " + name +
                      ", but the padded input has " + std::to_string(padded));
}

void check_shape(const Check& check, const Conv2dShape& shape, std::int64_t weight_channels) {
  check_axis(check, "height", shape.height);
  check_axis(check, "width", shape.width);
  if (shape.groups < 1 || shape.in_channels % shape.groups != 0 || shape.out_channels % shape.groups != 0)
    check.shape_error("groups is " + std::to_string(shape.groups) + ", expected a divisor of the " +
                      std::to_string(shape.in_channels) + " input and " + std::to_string(shape.out_channels) +
                      " output channels");
  if (weight_channels != shape.group_in())
    check.shape_error("weight has " + std::to_string(weight_channels) + " input channels, expected " +
                      std::to_string(shape.group_in()) + ": x has " + std::to_string(shape.in_channels) + " in " +
                      std::to_string(shape.groups) + " group(s)");
  if (shape.batch < 0 || shape.in_channels < 0 || shape.out_channels < 0) check.shape_error("a length is negative");
  // A padded copy of x may be made, and packed weights; beyond this their sizes in bytes would overflow, and no machine
  // has the memory.
  const auto padded = [](const Conv2dAxis& axis) {
    return static_cast<double>(axis.input + axis.padding_before + axis.padding_after);
  };
  const double channels = static_cast<double>(shape.in_channels) + static_cast<double>(shape.out_channels) + 64;
  const double filters = static_cast<double>(shape.height.kernel) * static_cast<double>(shape.width.kernel) *
                         (static_cast<double>(weight_channels) + 64) * (static_cast<double>(shape.out_channels) + 64);
  if (static_cast<double>(shape.batch) * padded(shape.height) * padded(shape.width) * channels > 0x1p58 ||
      filters > 0x1p52)
    throw std::bad_alloc();
}

Conv2dShape shape_of(const Check& check, const Conv2dParameters& parameters, const Shape& x, const Array& weight) {
  check.shape("weight", weight, {-1, -1, -1, -1}, "(C_out, KH, KW, C / groups)");
  const Conv2dShape shape = parameters.shape(x, {weight.shape[0], weight.shape[1], weight.shape[2], weight.shape[3]});
  check_shape(check, shape, weight.shape[3]);
  return shape;
}

/// The checked shape of a call, from whichever of x and dx, weight and dweight it has.
Conv2dShape shape_of(const Check& check, const Conv2dParameters& parameters, const Array& x, const Array& weight) {
  check.shape("x", x, {-1, -1, -1, -1}, "(N, H, W, C)");
  const Conv2dShape shape = shape_of(check, parameters, {x.shape[0], x.shape[1], x.shape[2], x.shape[3]}, weight);
  check.floating("x", x);
  check.contiguous("x", x);
  check.dtype("weight", weight, x.dtype);
  check.contiguous("weight", weight);
  return shape;
}

void check_output(const Check& check, const char* name, const Array& array, const Conv2dShape& shape, DType dtype) {
  check.exact(name, array, {shape.batch, shape.height.output(), shape.width.output(), shape.out_channels}, dtype,
              "(N, OH, OW, C_out)");
}

void check_bias(const Check& check, const char* name, const Array& bias, const Conv2dShape& shape, DType dtype) {
  if (bias) check.exact(name, bias, {shape.out_channels}, dtype, "(C_out,)");
}

/// The checked memory of a call.
void check_memory(const Check& check, const Plan& plan, const Array& packed, const Array& workspace) {
  check.packed(packed, plan.packed_bytes);
  check.workspace(workspace, plan.workspace_bytes);
}

void bind_plan(py::module_& module) {
  py::enum_<Conv2dPass>(module, "Conv2dPass", "Which of the three products of a convolution is meant.",
                        py::module_local())
      .value("forward", Conv2dPass::forward)
      .value("backward_input", Conv2dPass::backward_input)
      .value("backward_weight", Conv2dPass::backward_weight);
  py::class_<Conv2dParameters>(module, "Conv2dParameters", "What a convolution is told besides its arrays.",
                               py::module_local())
      .def(py::init([](const Pair& stride, const std::array<Pair, 2>& padding, const Pair& dilation,
                       std::int64_t groups, const std::string& algorithm) {
             return Conv2dParameters{stride, padding, dilation, groups, algorithm_named(algorithm)};
           }),
           py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"), py::arg("algorithm"));
  module.def(
      "conv2d_plan",
      [](Context context, const Shape& x, const Shape& weight, const Conv2dParameters& parameters, DType dtype,
         Conv2dPass pass) {
        const Conv2dShape shape = parameters.shape(x, weight);
        check_shape(Check("conv2d"), shape, weight[3]);
        return conv2d_plan(context, shape, dtype, pass);
      },
      py::arg("context"), py::arg("x_shape"), py::arg("weight_shape"), py::arg("parameters"), py::arg("dtype"),
      py::arg("pass_"));
  module.def(
      "conv2d_pack",
      [](Context context, const Output& packed, const Shape& x, const Array& weight, const Conv2dParameters& parameters,
         Conv2dPass pass) {
        const Check check("conv2d");
        check.floating("weight", weight);
        check.contiguous("weight", weight);
        const Conv2dShape shape = shape_of(check, parameters, x, weight);
        const std::int64_t bytes = conv2d_plan(context, shape, weight.dtype, pass).packed_bytes;
        check.packed(packed, bytes);
        if (bytes == 0) return;
        const py::gil_scoped_release released;
        conv2d_pack(context, packed, weight, shape, pass);
      },
      py::arg("context"), py::arg("packed"), py::arg("x_shape"), py::arg("weight"), py::arg("parameters"),
      py::arg("pass_"));
}

}  // namespace

IMGREC_BINDINGS(conv2d) {
  bind_plan(module);
  module.def(
      "conv2d_forward",
      [](Context context, const Output& y, const Output& pre_activation, const Array& x, const Array& weight,
         const Array& packed, const Array& bias, const Conv2dParameters& parameters, const std::string& activation_name,
         const Output& workspace) {
        const Check check("conv2d");
        const Activation activation = activation_named("conv2d", activation_name);
        const Conv2dShape shape = shape_of(check, parameters, x, weight);
        check_output(check, "y", y, shape, x.dtype);
        if (pre_activation) check_output(check, "pre_activation", pre_activation, shape, x.dtype);
        check_bias(check, "bias", bias, shape, x.dtype);
        check_memory(check, conv2d_plan(context, shape, x.dtype, Conv2dPass::forward), packed, workspace);
        if (y.size() == 0) return;
        const py::gil_scoped_release released;
        conv2d_forward(context, y, pre_activation, x, weight, packed, bias, shape, activation, workspace);
      },
      py::arg("context"), py::arg("y"), py::arg("pre_activation"), py::arg("x"), py::arg("weight"), py::arg("packed"),
      py::arg("bias"), py::arg("parameters"), py::arg("activation"), py::arg("workspace"));

  module.def(
      "conv2d_backward_input",
      [](Context context, const Output& dx, const Array& dy, const Array& weight, const Array& packed,
         const Conv2dParameters& parameters, const Output& workspace) {
        const Check check("conv2d");
        const Conv2dShape shape = shape_of(check, parameters, dx, weight);
        check_output(check, "dy", dy, shape, dx.dtype);
        check_memory(check, conv2d_plan(context, shape, dx.dtype, Conv2dPass::backward_input), packed, workspace);
        if (dx.size() == 0) return;
        const py::gil_scoped_release released;
        conv2d_backward_input(context, dx, dy, weight, packed, shape, workspace);
      },
      py::arg("context"), py::arg("dx"), py::arg("dy"), py::arg("weight"), py::arg("packed"), py::arg("parameters"),
      py::arg("workspace"));

  module.def(
      "conv2d_backward_weight",
      [](Context context, const Output& dweight, const Output& dbias, const Array& x, const Array& weight,
         const Array& dy, const Conv2dParameters& parameters, const Output& workspace) {
        const Check check("conv2d");
        const Conv2dShape shape = shape_of(check, parameters, x, weight);
        check_output(check, "dy", dy, shape, x.dtype);
        if (dweight) check.alike("dweight", dweight, "weight", weight);
        check_bias(check, "dbias", dbias, shape, x.dtype);
        check.workspace(workspace, conv2d_plan(context, shape, x.dtype, Conv2dPass::backward_weight).workspace_bytes);
        const py::gil_scoped_release released;
        conv2d_backward_weight(context, dweight, dbias, x, dy, shape, workspace);
      },
      py::arg("context"), py::arg("dweight"), py::arg("dbias"), py::arg("x"), py::arg("weight"), py::arg("dy"),
      py::arg("parameters"), py::arg("workspace"));
}

}  // namespace imgrec::bindings
