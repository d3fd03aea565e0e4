#include "ops/loss.h"

#include "bindings/array.h"

namespace imgrec::bindings {
namespace {

Reduction reduction_named(const std::string& op, const std::string& name) {
  if (name == "none") return Reduction::none;
  if (name == "mean") return Reduction::mean;
  if (name == "sum") return Reduction::sum;
  throw py::value_error(op + ": reduction is '" + name + "', expected 'none', 'mean' or 'sum'");
}

/// The type of losses beside logits.
DType loss_dtype(const Array& logits) { return logits.dtype == DType::float64 ? DType::float64 : DType::float32; }

/// `loss` or its gradient: one element, or one for each of `count`, in any shape.
void check_loss(const Check& check, const char* name, const Array& loss, const Array& logits, std::int64_t count,
                Reduction reduction) {
  const std::int64_t wanted = reduction == Reduction::none ? count : 1;
  check.dtype(name, loss, loss_dtype(logits));
  check.contiguous(name, loss);
  if (loss.size() != wanted)
    check.shape_error(std::string(name) + " is " + describe(loss) + ", expected " + std::to_string(wanted) +
                      " element(s)");
}

CrossEntropyOptions check_cross_entropy(const Check& check, const Array& logits, const Array& targets,
                                        const Array& weight, double label_smoothing, std::int64_t ignore_index,
                                        const std::string& reduction) {
  check.floating("logits", logits);
  check.shape("logits", logits, {-1, -1}, "(rows, classes)");
  check.contiguous("logits", logits);
  check.exact("targets", targets, {logits.shape[0]}, DType::int64, "(rows,)");
  if (weight) check.exact("weight", weight, {logits.shape[1]}, loss_dtype(logits), "(classes,)");
  if (logits.shape[1] == 0) check.shape_error("logits are " + describe(logits) + ", expected one class or more");
  if (!(label_smoothing >= 0 && label_smoothing <= 1))
    throw py::value_error("cross_entropy: label_smoothing is " + std::to_string(label_smoothing) + ", expected 0 to 1");
  return {label_smoothing, ignore_index, reduction_named("cross_entropy", reduction)};
}

/// The logarithms (rows,) and the normalizer (1,), which lie in one array after one another.
std::pair<Array, Array> cross_entropy_statistics(const Check& check, const Array& statistics, const Array& logits) {
  const std::int64_t rows = logits.shape[0];
  check.exact("statistics", statistics, {rows + 1}, loss_dtype(logits), "(rows + 1,)");
  auto* const normalizer = statistics.as<std::byte>() + rows * size_of(statistics.dtype);
  return {{statistics.data, statistics.dtype, 1, {rows}, {1}}, {normalizer, statistics.dtype, 1, {1}, {1}}};
}

/// Two arrays of the loss's own dtype and one shape of any number of dimensions.
void check_loss_pair(const Check& check, const char* name, const Array& input, const char* other_name,
                     const Array& other) {
  check.floating(name, input);
  check.contiguous(name, input);
  check.alike(other_name, other, name, input);
}

void check_loss_weight(const Check& check, const char* name, const Array& weight, const Array& logits) {
  if (!weight) return;
  check.dtype(name, weight, loss_dtype(logits));
  check.same_shape(name, weight, "logits", logits);
  check.contiguous(name, weight);
}

void bind_cross_entropy(py::module_& module) {
  module.def(
      "cross_entropy_plan",
      [](Context context, std::int64_t rows, DType dtype, const std::string& reduction) {
        return cross_entropy_plan(context, rows, dtype, reduction_named("cross_entropy", reduction));
      },
      py::arg("context"), py::arg("rows"), py::arg("dtype"), py::arg("reduction"));

  module.def(
      "cross_entropy_forward",
      [](Context context, const Output& loss, const Output& statistics, const Output& first_invalid,
         const Array& logits, const Array& targets, const Array& weight, double label_smoothing,
         std::int64_t ignore_index, const std::string& reduction, const Output& workspace) {
        const Check check("cross_entropy");
        const CrossEntropyOptions options =
            check_cross_entropy(check, logits, targets, weight, label_smoothing, ignore_index, reduction);
        const std::int64_t rows = logits.shape[0];
        check_loss(check, "loss", loss, logits, rows, options.reduction);
        const auto [log_sum_exp, normalizer] = cross_entropy_statistics(check, statistics, logits);
        check.exact("first_invalid", first_invalid, {1}, DType::int64, "(1,)");
        check.workspace(workspace, cross_entropy_plan(context, rows, logits.dtype, options.reduction).workspace_bytes);
        const py::gil_scoped_release released;
        cross_entropy_forward(context, loss, log_sum_exp, normalizer, first_invalid, logits, targets, weight, options,
                              workspace);
      },
      py::arg("context"), py::arg("loss"), py::arg("statistics"), py::arg("first_invalid"), py::arg("logits"),
      py::arg("targets"), py::arg("weight"), py::arg("label_smoothing"), py::arg("ignore_index"), py::arg("reduction"),
      py::arg("workspace"));

  module.def(
      "cross_entropy_backward",
      [](Context context, const Output& dlogits, const Array& dloss, const Array& logits, const Array& statistics,
         const Array& targets, const Array& weight, double label_smoothing, std::int64_t ignore_index,
         const std::string& reduction) {
        const Check check("cross_entropy");
        const CrossEntropyOptions options =
            check_cross_entropy(check, logits, targets, weight, label_smoothing, ignore_index, reduction);
        check.exact("dlogits", dlogits, {logits.shape[0], logits.shape[1]}, logits.dtype, "(rows, classes)");
        check_loss(check, "dloss", dloss, logits, logits.shape[0], options.reduction);
        const auto [log_sum_exp, normalizer] = cross_entropy_statistics(check, statistics, logits);
        const py::gil_scoped_release released;
        cross_entropy_backward(context, dlogits, dloss, logits, log_sum_exp, normalizer, targets, weight, options);
      },
      py::arg("context"), py::arg("dlogits"), py::arg("dloss"), py::arg("logits"), py::arg("statistics"),
      py::arg("targets"), py::arg("weight"), py::arg("label_smoothing"), py::arg("ignore_index"), py::arg("reduction"));
}

void bind_binary_cross_entropy(py::module_& module) {
  static const char* const op = "binary_cross_entropy_with_logits";
  module.def(
      "binary_cross_entropy_with_logits_forward",
      [](Context context, const Output& loss, const Array& logits, const Array& targets, const Array& weight,
         const Array& pos_weight, const std::string& reduction_name, const Output& workspace) {
        const Check check(op);
        const Reduction reduction = reduction_named(op, reduction_name);
        check_loss_pair(check, "logits", logits, "targets", targets);
        check_loss_weight(check, "weight", weight, logits);
        check_loss_weight(check, "pos_weight", pos_weight, logits);
        check_loss(check, "loss", loss, logits, logits.size(), reduction);
        check.workspace(workspace, elementwise_loss_plan(context, logits.size(), reduction).workspace_bytes);
        const py::gil_scoped_release released;
        binary_cross_entropy_with_logits_forward(context, loss, logits, targets, weight, pos_weight, reduction,
                                                 workspace);
      },
      py::arg("context"), py::arg("loss"), py::arg("logits"), py::arg("targets"), py::arg("weight"),
      py::arg("pos_weight"), py::arg("reduction"), py::arg("workspace"));

  module.def(
      "binary_cross_entropy_with_logits_backward",
      [](Context context, const Output& dlogits, const Output& dtargets, const Array& dloss, const Array& logits,
         const Array& targets, const Array& weight, const Array& pos_weight, const std::string& reduction_name) {
        const Check check(op);
        const Reduction reduction = reduction_named(op, reduction_name);
        check_loss_pair(check, "logits", logits, "targets", targets);
        if (dlogits) check_loss_pair(check, "logits", logits, "dlogits", dlogits);
        if (dtargets) check_loss_pair(check, "logits", logits, "dtargets", dtargets);
        check_loss_weight(check, "weight", weight, logits);
        check_loss_weight(check, "pos_weight", pos_weight, logits);
        check_loss(check, "dloss", dloss, logits, logits.size(), reduction);
        const py::gil_scoped_release released;
        binary_cross_entropy_with_logits_backward(context, dlogits, dtargets, dloss, logits, targets, weight,
                                                  pos_weight, reduction);
      },
      py::arg("context"), py::arg("dlogits"), py::arg("dtargets"), py::arg("dloss"), py::arg("logits"),
      py::arg("targets"), py::arg("weight"), py::arg("pos_weight"), py::arg("reduction"));
}

void bind_mse_loss(py::module_& module) {
  module.def(
      "mse_loss_forward",
      [](Context context, const Output& loss, const Array& input, const Array& target,
         const std::string& reduction_name, const Output& workspace) {
        const Check check("mse_loss");
        const Reduction reduction = reduction_named("mse_loss", reduction_name);
        check_loss_pair(check, "input", input, "target", target);
        check_loss(check, "loss", loss, input, input.size(), reduction);
        check.workspace(workspace, elementwise_loss_plan(context, input.size(), reduction).workspace_bytes);
        const py::gil_scoped_release released;
        mse_loss_forward(context, loss, input, target, reduction, workspace);
      },
      py::arg("context"), py::arg("loss"), py::arg("input"), py::arg("target"), py::arg("reduction"),
      py::arg("workspace"));

  module.def(
      "mse_loss_backward",
      [](Context context, const Output& dinput, const Array& dloss, const Array& input, const Array& target,
         const std::string& reduction_name) {
        const Check check("mse_loss");
        const Reduction reduction = reduction_named("mse_loss", reduction_name);
        check_loss_pair(check, "input", input, "target", target);
        check_loss_pair(check, "input", input, "dinput", dinput);
        check_loss(check, "dloss", dloss, input, input.size(), reduction);
        const py::gil_scoped_release released;
        mse_loss_backward(context, dinput, dloss, input, target, reduction);
      },
      py::arg("context"), py::arg("dinput"), py::arg("dloss"), py::arg("input"), py::arg("target"),
      py::arg("reduction"));
}

}  // namespace

IMGREC_BINDINGS(loss) {
  module.def(
      "elementwise_loss_plan",
      [](Context context, std::int64_t size, const std::string& op, const std::string& reduction) {
        return elementwise_loss_plan(context, size, reduction_named(op, reduction));
      },
      py::arg("context"), py::arg("size"), py::arg("op"), py::arg("reduction"));
  bind_cross_entropy(module);
  bind_binary_cross_entropy(module);
  bind_mse_loss(module);
}

}  // namespace imgrec::bindings
