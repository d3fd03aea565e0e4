#include "ops/norm.h"

#include "bindings/activation.h"

namespace imgrec::bindings {
namespace {

/// The type of statistics and parameters beside x.
DType norm_dtype(const Array& x) { return x.dtype == DType::float64 ? DType::float64 : DType::float32; }

void check_norm_input(const Check& check, const Array& x, const Array& workspace) {
  check.floating("x", x);
  check.shape("x", x, {-1, -1}, "(rows, columns)");
  check.contiguous("x", x);
  check.workspace(workspace, norm_plan({}, x.shape[0], x.shape[1], x.dtype).workspace_bytes);
}

void check_like_x(const Check& check, const char* name, const Array& array, const Array& x) {
  check.exact(name, array, {x.shape[0], x.shape[1]}, x.dtype, "(rows, columns)");
}

void check_per_column(const Check& check, const char* name, const Array& array, const Array& x) {
  check.exact(name, array, {x.shape[1]}, norm_dtype(x), "(columns,)");
}

}  // namespace

IMGREC_BINDINGS(norm) {
  module.def("norm_plan", &norm_plan, py::arg("context"), py::arg("rows"), py::arg("columns"), py::arg("dtype"));

  module.def(
      "batch_norm_forward",
      [](Context context, const Output& y, const Output& mean, const Output& inverse_deviation,
         const Output& running_mean, const Output& running_var, const Array& x, const Array& weight, const Array& bias,
         bool training, double momentum, double eps, const std::string& activation_name, const Output& workspace) {
        const Check check("batch_norm");
        const Activation activation = activation_named("batch_norm", activation_name);
        check_norm_input(check, x, workspace);
        check_like_x(check, "y", y, x);
        check_per_column(check, "mean", mean, x);
        check_per_column(check, "inverse_deviation", inverse_deviation, x);
        if (running_mean || !training) check_per_column(check, "running_mean", running_mean, x);
        if (running_var || !training) check_per_column(check, "running_var", running_var, x);
        if (weight) check_per_column(check, "weight", weight, x);
        if (bias) check_per_column(check, "bias", bias, x);
        if (training && x.shape[0] < 2)
          check.shape_error("x has " + std::to_string(x.shape[0]) +
                            " value(s) a channel, expected 2 or more in training");
        const py::gil_scoped_release released;
        batch_norm_forward(context, y, mean, inverse_deviation, running_mean, running_var, x, weight, bias,
                           {training, momentum, eps}, activation, workspace);
      },
      py::arg("context"), py::arg("y"), py::arg("mean"), py::arg("inverse_deviation"), py::arg("running_mean"),
      py::arg("running_var"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("training"),
      py::arg("momentum"), py::arg("eps"), py::arg("activation"), py::arg("workspace"));

  module.def(
      "batch_norm_backward",
      [](Context context, const Output& dx, const Output& dweight, const Output& dbias, const Array& dy, const Array& x,
         const Array& weight, const Array& bias, const Array& mean, const Array& inverse_deviation, bool training,
         const std::string& activation_name, const Output& workspace) {
        const Check check("batch_norm");
        const Activation activation = activation_named("batch_norm", activation_name);
        check_norm_input(check, x, workspace);
        check_like_x(check, "dx", dx, x);
        check_like_x(check, "dy", dy, x);
        check_per_column(check, "dweight", dweight, x);
        check_per_column(check, "dbias", dbias, x);
        check_per_column(check, "mean", mean, x);
        check_per_column(check, "inverse_deviation", inverse_deviation, x);
        if (weight) check_per_column(check, "weight", weight, x);
        if (bias) check_per_column(check, "bias", bias, x);
        const py::gil_scoped_release released;
        batch_norm_backward(context, dx, dweight, dbias, dy, x, weight, bias, mean, inverse_deviation, training,
                            activation, workspace);
      },
      py::arg("context"), py::arg("dx"), py::arg("dweight"), py::arg("dbias"), py::arg("dy"), py::arg("x"),
      py::arg("weight"), py::arg("bias"), py::arg("mean"), py::arg("inverse_deviation"), py::arg("training"),
      py::arg("activation"), py::arg("workspace"));

  module.def(
      "layer_norm_forward",
      [](Context context, const Output& y, const Output& mean, const Output& inverse_deviation, const Array& x,
         const Array& weight, const Array& bias, double eps, const std::string& activation_name) {
        const Check check("layer_norm");
        const Activation activation = activation_named("layer_norm", activation_name);
        check.floating("x", x);
        check.shape("x", x, {-1, -1}, "(rows, columns)");
        check.contiguous("x", x);
        check_like_x(check, "y", y, x);
        check.exact("mean", mean, {x.shape[0]}, norm_dtype(x), "(rows,)");
        check.exact("inverse_deviation", inverse_deviation, {x.shape[0]}, norm_dtype(x), "(rows,)");
        if (weight) check_per_column(check, "weight", weight, x);
        if (bias) check_per_column(check, "bias", bias, x);
        const py::gil_scoped_release released;
        layer_norm_forward(context, y, mean, inverse_deviation, x, weight, bias, eps, activation);
      },
      py::arg("context"), py::arg("y"), py::arg("mean"), py::arg("inverse_deviation"), py::arg("x"), py::arg("weight"),
      py::arg("bias"), py::arg("eps"), py::arg("activation"));

  module.def(
      "layer_norm_backward",
      [](Context context, const Output& dx, const Output& dweight, const Output& dbias, const Array& dy, const Array& x,
         const Array& weight, const Array& bias, const Array& mean, const Array& inverse_deviation,
         const std::string& activation_name, const Output& workspace) {
        const Check check("layer_norm");
        const Activation activation = activation_named("layer_norm", activation_name);
        check_norm_input(check, x, workspace);
        check_like_x(check, "dx", dx, x);
        check_like_x(check, "dy", dy, x);
        check_per_column(check, "dweight", dweight, x);
        check_per_column(check, "dbias", dbias, x);
        if (weight) check_per_column(check, "weight", weight, x);
        if (bias) check_per_column(check, "bias", bias, x);
        check.exact("mean", mean, {x.shape[0]}, norm_dtype(x), "(rows,)");
        check.exact("inverse_deviation", inverse_deviation, {x.shape[0]}, norm_dtype(x), "(rows,)");
        const py::gil_scoped_release released;
        layer_norm_backward(context, dx, dweight, dbias, dy, x, weight, bias, mean, inverse_deviation, activation,
                            workspace);
      },
      py::arg("context"), py::arg("dx"), py::arg("dweight"), py::arg("dbias"), py::arg("dy"), py::arg("x"),
      py::arg("weight"), py::arg("bias"), py::arg("mean"), py::arg("inverse_deviation"), py::arg("activation"),
      py::arg("workspace"));
}

}  // namespace imgrec::bindings
