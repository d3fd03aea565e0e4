// For imgrec_engine/optim. Arrays are contiguous; those before `gradient` are changed in place:
//
//   sgd_update(context, parameter, momentum_buffer | None, gradient, state, momentum, weight_decay, nesterov)
//   adam_update(context, parameter, exp_avg, exp_avg_sq, gradient, state, beta1, beta2, eps, weight_decay, decoupled)
//   squared_norm(context, out, array, workspace), with squared_norm_plan(context, size).workspace_bytes of workspace
//   scale_in_place(context, array, factor)
//
// state: float64 [learning_rate, step], step 1 in the first update; out, factor: float64 of one element (a slice of
// a longer array will do). Buffers are float32, float64 beside float64 parameters, and start as zeros. The gradient has
// the parameter's dtype.
#include "ops/optimizer.h"

#include "bindings/array.h"

namespace imgrec::bindings {
namespace {

void check_update(const Check& check, const Array& parameter, const Array& gradient, const Array& state) {
  check.floating("parameter", parameter);
  check.contiguous("parameter", parameter);
  check.alike("gradient", gradient, "parameter", parameter);
  check.exact("state", state, {2}, DType::float64, "(learning_rate, step)");
}

void check_buffer(const Check& check, const char* name, const Array& buffer, const Array& parameter) {
  check.dtype(name, buffer, parameter.dtype == DType::float64 ? DType::float64 : DType::float32);
  check.same_shape(name, buffer, "parameter", parameter);
  check.contiguous(name, buffer);
}

}  // namespace

IMGREC_BINDINGS(optimizer) {
  module.def(
      "sgd_update",
      [](Context context, const Output& parameter, const Output& momentum_buffer, const Array& gradient,
         const Array& state, double momentum, double weight_decay, bool nesterov) {
        const Check check("sgd_update");
        check_update(check, parameter, gradient, state);
        if (momentum_buffer) check_buffer(check, "momentum_buffer", momentum_buffer, parameter);
        const py::gil_scoped_release released;
        sgd_update(context, parameter, momentum_buffer, gradient, state, {momentum, weight_decay, nesterov});
      },
      py::arg("context"), py::arg("parameter"), py::arg("momentum_buffer"), py::arg("gradient"), py::arg("state"),
      py::arg("momentum"), py::arg("weight_decay"), py::arg("nesterov"));

  module.def(
      "adam_update",
      [](Context context, const Output& parameter, const Output& exp_avg, const Output& exp_avg_sq,
         const Array& gradient, const Array& state, double beta1, double beta2, double eps, double weight_decay,
         bool decoupled) {
        const Check check("adam_update");
        check_update(check, parameter, gradient, state);
        check_buffer(check, "exp_avg", exp_avg, parameter);
        check_buffer(check, "exp_avg_sq", exp_avg_sq, parameter);
        const py::gil_scoped_release released;
        adam_update(context, parameter, exp_avg, exp_avg_sq, gradient, state,
                    {beta1, beta2, eps, weight_decay, decoupled});
      },
      py::arg("context"), py::arg("parameter"), py::arg("exp_avg"), py::arg("exp_avg_sq"), py::arg("gradient"),
      py::arg("state"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
      py::arg("decoupled"));

  module.def("squared_norm_plan", &squared_norm_plan, py::arg("context"), py::arg("size"));

  module.def(
      "squared_norm",
      [](Context context, const Output& out, const Array& array, const Output& workspace) {
        const Check check("squared_norm");
        check.floating("array", array);
        check.contiguous("array", array);
        check.exact("out", out, {1}, DType::float64, "(1,)");
        check.workspace(workspace, squared_norm_plan(context, array.size()).workspace_bytes);
        const py::gil_scoped_release released;
        squared_norm(context, out, array, workspace);
      },
      py::arg("context"), py::arg("out"), py::arg("array"), py::arg("workspace"));

  module.def(
      "scale_in_place",
      [](Context context, const Output& array, const Array& factor) {
        const Check check("scale_in_place");
        check.floating("array", array);
        check.contiguous("array", array);
        check.exact("factor", factor, {1}, DType::float64, "(1,)");
        const py::gil_scoped_release released;
        scale_in_place(context, array, factor);
      },
      py::arg("context"), py::arg("array"), py::arg("factor"));
}

}  // namespace imgrec::bindings
