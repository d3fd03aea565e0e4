// For imgrec_engine/optim. Lists of contiguous arrays of one dtype; those before `gradients` are changed in place:
//
//   sgd_update(context, parameters, momentum_buffers, gradients, skip, learning_rate, momentum, weight_decay,
//              nesterov)
//   adam_update(context, parameters, exp_avgs, exp_avg_sqs, steps, gradients, skip, learning_rate, beta1, beta2, eps,
//               weight_decay, decoupled)
//   squared_norm(context, out, arrays, workspace), with squared_norm_plan(context, arrays).workspace_bytes of workspace
//   scale_in_place(context, arrays, factor)
//
// skip: bool (1,) or None; learning_rate, momentum, beta1, out, factor: float64 (1,); steps: int64 (), 0 before the
// first update. Buffers are float32, float64 beside float64 parameters, and start as zeros; momentum_buffers is [] for
// none. Gradients have the parameters' dtype.
#include "ops/optimizer.h"

#include "bindings/array.h"

namespace imgrec::bindings {
namespace {

/// Arrays of one floating dtype, and at least one.
void check_list(const char* op, const char* name, Arrays arrays) {
  if (arrays.empty()) Check(op).shape_error(std::string(name) + " is an empty list, expected one array or more");
  for (std::size_t place = 0; place < arrays.size(); ++place) {
    const Check check(op, place);
    check.floating(name, arrays[place]);
    check.dtype(name, arrays[place], arrays[0].dtype);
    check.contiguous(name, arrays[place]);
  }
}

void check_number(const Check& check, const char* name, const Array& number) {
  check.exact(name, number, {1}, DType::float64, "(1,)");
}

void check_update(const char* op, Arrays parameters, Arrays gradients, const Array& skip, const Array& learning_rate) {
  check_list(op, "parameters", parameters);
  Check(op).same_length("gradients", gradients.size(), "parameters", parameters.size());
  for (std::size_t place = 0; place < parameters.size(); ++place)
    Check(op, place).alike("gradients", gradients[place], "parameters", parameters[place]);
  if (skip) Check(op).exact("skip", skip, {1}, DType::boolean, "(1,)");
  check_number(Check(op), "learning_rate", learning_rate);
}

void check_buffers(const char* op, const char* name, Arrays buffers, Arrays parameters) {
  Check(op).same_length(name, buffers.size(), "parameters", parameters.size());
  const DType wide = parameters[0].dtype == DType::float64 ? DType::float64 : DType::float32;
  for (std::size_t place = 0; place < parameters.size(); ++place) {
    const Check check(op, place);
    check.dtype(name, buffers[place], wide);
    check.same_shape(name, buffers[place], "parameters", parameters[place]);
    check.contiguous(name, buffers[place]);
  }
}

void check_steps(const char* op, Arrays steps, Arrays parameters) {
  Check(op).same_length("steps", steps.size(), "parameters", parameters.size());
  for (std::size_t place = 0; place < steps.size(); ++place)
    Check(op, place).exact("steps", steps[place], {}, DType::int64, "()");
}

void bind_updates(py::module_& module) {
  module.def(
      "sgd_update",
      [](Context context, const OutputList& parameters, const OutputList& momentum_buffers, const ArrayList& gradients,
         const Array& skip, const Array& learning_rate, const Array& momentum, double weight_decay, bool nesterov) {
        check_update("sgd_update", parameters, gradients, skip, learning_rate);
        check_number(Check("sgd_update"), "momentum", momentum);
        if (!momentum_buffers.empty()) check_buffers("sgd_update", "momentum_buffers", momentum_buffers, parameters);
        const py::gil_scoped_release released;
        sgd_update(context, parameters, momentum_buffers, gradients, skip, learning_rate, momentum,
                   {weight_decay, nesterov});
      },
      py::arg("context"), py::arg("parameters"), py::arg("momentum_buffers"), py::arg("gradients"), py::arg("skip"),
      py::arg("learning_rate"), py::arg("momentum"), py::arg("weight_decay"), py::arg("nesterov"));

  module.def(
      "adam_update",
      [](Context context, const OutputList& parameters, const OutputList& exp_avgs, const OutputList& exp_avg_sqs,
         const OutputList& steps, const ArrayList& gradients, const Array& skip, const Array& learning_rate,
         const Array& beta1, double beta2, double eps, double weight_decay, bool decoupled) {
        check_update("adam_update", parameters, gradients, skip, learning_rate);
        check_number(Check("adam_update"), "beta1", beta1);
        check_buffers("adam_update", "exp_avgs", exp_avgs, parameters);
        check_buffers("adam_update", "exp_avg_sqs", exp_avg_sqs, parameters);
        check_steps("adam_update", steps, parameters);
        const py::gil_scoped_release released;
        adam_update(context, parameters, exp_avgs, exp_avg_sqs, steps, gradients, skip, learning_rate, beta1,
                    {beta2, eps, weight_decay, decoupled});
      },
      py::arg("context"), py::arg("parameters"), py::arg("exp_avgs"), py::arg("exp_avg_sqs"), py::arg("steps"),
      py::arg("gradients"), py::arg("skip"), py::arg("learning_rate"), py::arg("beta1"), py::arg("beta2"),
      py::arg("eps"), py::arg("weight_decay"), py::arg("decoupled"));
}

void bind_clipping(py::module_& module) {
  module.def(
      "squared_norm_plan", [](Context context, const ArrayList& arrays) { return squared_norm_plan(context, arrays); },
      py::arg("context"), py::arg("arrays"));

  module.def(
      "squared_norm",
      [](Context context, const Output& out, const ArrayList& arrays, const Output& workspace) {
        check_list("squared_norm", "arrays", arrays);
        const Check check("squared_norm");
        check_number(check, "out", out);
        check.workspace(workspace, squared_norm_plan(context, arrays).workspace_bytes);
        const py::gil_scoped_release released;
        squared_norm(context, out, arrays, workspace);
      },
      py::arg("context"), py::arg("out"), py::arg("arrays"), py::arg("workspace"));

  module.def(
      "scale_in_place",
      [](Context context, const OutputList& arrays, const Array& factor) {
        check_list("scale_in_place", "arrays", arrays);
        check_number(Check("scale_in_place"), "factor", factor);
        const py::gil_scoped_release released;
        scale_in_place(context, arrays, factor);
      },
      py::arg("context"), py::arg("arrays"), py::arg("factor"));
}

}  // namespace

IMGREC_BINDINGS(optimizer) {
  bind_updates(module);
  bind_clipping(module);
}

}  // namespace imgrec::bindings
