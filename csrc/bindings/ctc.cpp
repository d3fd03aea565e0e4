#include "ops/ctc.h"

#include "bindings/array.h"

namespace imgrec::bindings {
namespace {

DType wide(const Array& log_probs) { return log_probs.dtype == DType::float64 ? DType::float64 : DType::float32; }

CtcShape check_samples(const Check& check, const Array& log_probs, const Array& targets, const Array& input_lengths,
                       const Array& target_lengths, std::int64_t blank) {
  check.floating("log_probs", log_probs);
  check.shape("log_probs", log_probs, {-1, -1, -1}, "(N, T, classes)");
  check.contiguous("log_probs", log_probs);
  const std::int64_t batch = log_probs.shape[0], classes = log_probs.shape[2];
  check.shape("targets", targets, {batch, -1}, "(N, S)");
  check.exact("targets", targets, {batch, targets.shape[1]}, DType::int64, "(N, S)");
  check.exact("input_lengths", input_lengths, {batch}, DType::int64, "(N,)");
  check.exact("target_lengths", target_lengths, {batch}, DType::int64, "(N,)");
  if (blank < 0 || blank >= classes)
    throw py::value_error("ctc_loss: blank is " + std::to_string(blank) + ", expected a class of log_probs " +
                          describe(log_probs));
  return {batch, log_probs.shape[1], classes, targets.shape[1], blank};
}

void check_saved(const Check& check, const Array& loss, const Array& alpha, const Array& log_probs,
                 const CtcShape& shape) {
  check.exact("loss", loss, {shape.batch}, wide(log_probs), "(N,)");
  check.exact("alpha", alpha, {shape.batch, shape.steps, shape.states()}, wide(log_probs), "(N, T, 2 S + 1)");
}

}  // namespace

IMGREC_BINDINGS(ctc) {
  module.def(
      "ctc_plan",
      [](Context context, std::int64_t batch, std::int64_t steps, std::int64_t classes, std::int64_t targets,
         DType dtype) { return ctc_plan(context, {batch, steps, classes, targets, 0}, dtype); },
      py::arg("context"), py::arg("batch"), py::arg("steps"), py::arg("classes"), py::arg("targets"), py::arg("dtype"));

  module.def(
      "ctc_forward",
      [](Context context, const Output& loss, const Output& alpha, const Output& first_invalid, const Array& log_probs,
         const Array& targets, const Array& input_lengths, const Array& target_lengths, std::int64_t blank,
         const Output& workspace) {
        const Check check("ctc_loss");
        const CtcShape shape = check_samples(check, log_probs, targets, input_lengths, target_lengths, blank);
        check_saved(check, loss, alpha, log_probs, shape);
        check.exact("first_invalid", first_invalid, {1}, DType::int64, "(1,)");
        check.workspace(workspace, ctc_plan(context, shape, log_probs.dtype).workspace_bytes);
        const py::gil_scoped_release released;
        ctc_forward(context, loss, alpha, first_invalid, log_probs, targets, input_lengths, target_lengths, shape,
                    workspace);
      },
      py::arg("context"), py::arg("loss"), py::arg("alpha"), py::arg("first_invalid"), py::arg("log_probs"),
      py::arg("targets"), py::arg("input_lengths"), py::arg("target_lengths"), py::arg("blank"), py::arg("workspace"));

  module.def(
      "ctc_backward",
      [](Context context, const Output& dlog_probs, const Array& dloss, const Array& loss, const Array& alpha,
         const Array& log_probs, const Array& targets, const Array& input_lengths, const Array& target_lengths,
         std::int64_t blank, bool zero_infinity, const Output& workspace) {
        const Check check("ctc_loss");
        const CtcShape shape = check_samples(check, log_probs, targets, input_lengths, target_lengths, blank);
        check_saved(check, loss, alpha, log_probs, shape);
        check.alike("dlog_probs", dlog_probs, "log_probs", log_probs);
        check.alike("dloss", dloss, "loss", loss);
        check.workspace(workspace, ctc_plan(context, shape, log_probs.dtype).workspace_bytes);
        const py::gil_scoped_release released;
        ctc_backward(context, dlog_probs, dloss, loss, alpha, log_probs, targets, input_lengths, target_lengths, shape,
                     zero_infinity, workspace);
      },
      py::arg("context"), py::arg("dlog_probs"), py::arg("dloss"), py::arg("loss"), py::arg("alpha"),
      py::arg("log_probs"), py::arg("targets"), py::arg("input_lengths"), py::arg("target_lengths"), py::arg("blank"),
      py::arg("zero_infinity"), py::arg("workspace"));
}

}  // namespace imgrec::bindings
