#include "ops/norm.h"

#include "bindings/activation.h"

namespace imgrec::bindings {
namespace {

/// The type of statistics and parameters beside x.
DType norm_dtype(const Array& x) { return x.dtype == DType::float64 ? DType::float64 : DType::float32; }

/// The rows of x (..., columns).
Array norm_input(const Check& check, const Array& x) {
  check.floating("x", x);
  if (x.ndim < 1) check.shape_error("x is " + describe(x) + ", expected a dimension at least");
  check.contiguous("x", x);
  return as_rows(x);
}

void check_norm_workspace(const Check& check, const Array& rows, const Array& workspace) {
  check.workspace(workspace, norm_plan({}, rows.shape[0], rows.shape[1], rows.dtype).workspace_bytes);
}

/// Statistics (2, count): means, and inverse deviations.
void check_statistics(const Check& check, const Array& statistics, std::int64_t count, const Array& x) {
  check.exact("statistics", statistics, {2, count}, norm_dtype(x), "(2, means)");
}

void check_per_column(const Check& check, const char* name, const Array& array, const Array& rows) {
  check.exact(name, array, {rows.shape[1]}, norm_dtype(rows), "(columns,)");
}

void bind_batch_norm(py::module_& module) {
  module.def(
      "batch_norm_forward",
      [](Context context, const Output& result, const Output& statistics, const Output& running_mean,
         const Output& running_var, const Array& input, const Array& weight, const Array& bias, bool training,
         double momentum, double eps, const std::string& activation_name, const Output& workspace) {
        const Check check("batch_norm");
        const Activation activation = activation_named("batch_norm", activation_name);
        const Array x = norm_input(check, input);
        check_norm_workspace(check, x, workspace);
        check.alike("y", result, "x", input);
        check_statistics(check, statistics, x.shape[1], x);
        if (running_mean || !training) check_per_column(check, "running_mean", running_mean, x);
        if (running_var || !training) check_per_column(check, "running_var", running_var, x);
        if (weight) check_per_column(check, "weight", weight, x);
        if (bias) check_per_column(check, "bias", bias, x);
        if (training && x.shape[0] < 2)
          check.shape_error("x has " + std::to_string(x.shape[0]) +
                            " value(s) a channel, expected 2 or more in training");
        const py::gil_scoped_release released;
        batch_norm_forward(context, as_rows(result), row_of(statistics, 0), row_of(statistics, 1), running_mean,
                           running_var, x, weight, bias, {training, momentum, eps}, activation, workspace);
      },
      py::arg("context"), py::arg("y"), py::arg("statistics"), py::arg("running_mean"), py::arg("running_var"),
      py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("training"), py::arg("momentum"), py::arg("eps"),
      py::arg("activation"), py::arg("workspace"));

  module.def(
      "batch_norm_backward",
      [](Context context, const Output& dinput, const Output& dweight, const Output& dbias, const Array& dresult,
         const Array& input, const Array& weight, const Array& bias, const Array& statistics, bool training,
         const std::string& activation_name, const Output& workspace) {
        const Check check("batch_norm");
        const Activation activation = activation_named("batch_norm", activation_name);
        const Array x = norm_input(check, input);
        check_norm_workspace(check, x, workspace);
        check.alike("dx", dinput, "x", input);
        check.alike("dy", dresult, "x", input);
        check_per_column(check, "dweight", dweight, x);
        check_per_column(check, "dbias", dbias, x);
        check_statistics(check, statistics, x.shape[1], x);
        if (weight) check_per_column(check, "weight", weight, x);
        if (bias) check_per_column(check, "bias", bias, x);
        const py::gil_scoped_release released;
        batch_norm_backward(context, as_rows(dinput), dweight, dbias, as_rows(dresult), x, weight, bias,
                            row_of(statistics, 0), row_of(statistics, 1), training, activation, workspace);
      },
      py::arg("context"), py::arg("dx"), py::arg("dweight"), py::arg("dbias"), py::arg("dy"), py::arg("x"),
      py::arg("weight"), py::arg("bias"), py::arg("statistics"), py::arg("training"), py::arg("activation"),
      py::arg("workspace"));
}

void bind_layer_norm(py::module_& module) {
  module.def(
      "layer_norm_forward",
      [](Context context, const Output& result, const Output& statistics, const Array& input, const Array& weight,
         const Array& bias, double eps, const std::string& activation_name) {
        const Check check("layer_norm");
        const Activation activation = activation_named("layer_norm", activation_name);
        const Array x = norm_input(check, input);
        check.alike("y", result, "x", input);
        check_statistics(check, statistics, x.shape[0], x);
        if (weight) check_per_column(check, "weight", weight, x);
        if (bias) check_per_column(check, "bias", bias, x);
        const py::gil_scoped_release released;
        layer_norm_forward(context, as_rows(result), row_of(statistics, 0), row_of(statistics, 1), x, weight, bias, eps,
                           activation);
      },
      py::arg("context"), py::arg("y"), py::arg("statistics"), py::arg("x"), py::arg("weight"), py::arg("bias"),
      py::arg("eps"), py::arg("activation"));

  module.def(
      "layer_norm_backward",
      [](Context context, const Output& dinput, const Output& dweight, const Output& dbias, const Array& dresult,
         const Array& input, const Array& weight, const Array& bias, const Array& statistics,
         const std::string& activation_name, const Output& workspace) {
        const Check check("layer_norm");
        const Activation activation = activation_named("layer_norm", activation_name);
        const Array x = norm_input(check, input);
        check_norm_workspace(check, x, workspace);
        check.alike("dx", dinput, "x", input);
        check.alike("dy", dresult, "x", input);
        check_per_column(check, "dweight", dweight, x);
        check_per_column(check, "dbias", dbias, x);
        if (weight) check_per_column(check, "weight", weight, x);
        if (bias) check_per_column(check, "bias", bias, x);
        check_statistics(check, statistics, x.shape[0], x);
        const py::gil_scoped_release released;
        layer_norm_backward(context, as_rows(dinput), dweight, dbias, as_rows(dresult), x, weight, bias,
                            row_of(statistics, 0), row_of(statistics, 1), activation, workspace);
      },
      py::arg("context"), py::arg("dx"), py::arg("dweight"), py::arg("dbias"), py::arg("dy"), py::arg("x"),
      py::arg("weight"), py::arg("bias"), py::arg("statistics"), py::arg("activation"), py::arg("workspace"));
}

}  // namespace

IMGREC_BINDINGS(norm) {
  module.def("norm_plan", &norm_plan, py::arg("context"), py::arg("rows"), py::arg("columns"), py::arg("dtype"));

  bind_batch_norm(module);
  bind_layer_norm(module);
}

}  // namespace imgrec::bindings
