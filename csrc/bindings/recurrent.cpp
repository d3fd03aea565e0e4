#include "ops/recurrent.h"

#include <array>
#include <tuple>

#include "bindings/array.h"

namespace imgrec::bindings {
namespace {

RecurrentCell cell_named(const std::string& name) {
  if (name == "lstm") return RecurrentCell::lstm;
  if (name == "gru") return RecurrentCell::gru;
  if (name == "rnn_tanh") return RecurrentCell::rnn_tanh;
  if (name == "rnn_relu") return RecurrentCell::rnn_relu;
  throw py::value_error("recurrent: cell is '" + name + "', expected 'lstm', 'gru', 'rnn_tanh' or 'rnn_relu'");
}

/// x, h_0, c_0, weight_ih, weight_hh, bias_ih, bias_hh, lengths: one sequence from Python.
using Tensors = std::tuple<Array, Array, Array, Array, Array, Array, Array, HostArray>;

RecurrentInputs inputs_of(const Tensors& tensors, const std::string& cell, bool reverse) {
  const auto& [x, h_0, c_0, weight_ih, weight_hh, bias_ih, bias_hh, lengths] = tensors;
  return {x, h_0, c_0, weight_ih, weight_hh, bias_ih, bias_hh, lengths, cell_named(cell), reverse};
}

const char* op_of(RecurrentCell cell) {
  return cell == RecurrentCell::lstm ? "lstm" : cell == RecurrentCell::gru ? "gru" : "rnn";
}

std::int64_t gates_of(RecurrentCell cell) {
  return cell == RecurrentCell::lstm ? 4 : cell == RecurrentCell::gru ? 3 : 1;
}

void check_lengths(const Check& check, const Array& lengths, std::int64_t batch, std::int64_t steps) {
  if (!lengths) return;
  check.exact("lengths", lengths, {batch}, DType::int64, "(N,)");
  for (std::int64_t n = 0; n < batch; ++n) {
    const std::int64_t length = lengths.as<const std::int64_t>()[n];
    if (length < 1 || length > steps)
      check.shape_error("lengths[" + std::to_string(n) + "] is " + std::to_string(length) +
                        ", expected 1 to T = " + std::to_string(steps));
  }
}

/// Checks what both passes read, and tells the sizes.
RecurrentShape check_inputs(const Check& check, const RecurrentInputs& in) {
  check.floating("x", in.x);
  check.shape("x", in.x, {-1, -1, -1}, "(N, T, I)");
  check.contiguous("x", in.x);
  const DType dtype = in.x.dtype;
  check.dtype("weight_hh", in.weight_hh, dtype);
  check.shape("weight_hh", in.weight_hh, {-1, -1}, "(G H, H)");
  const RecurrentShape shape{in.x.shape[0], in.x.shape[1], in.x.shape[2], in.weight_hh.shape[1]};
  if (shape.steps < 1 || shape.hidden < 1)
    check.shape_error("x is " + describe(in.x) + " and weight_hh " + describe(in.weight_hh) +
                      "; a step and a hidden unit are needed at least");
  const std::int64_t rows = gates_of(in.cell) * shape.hidden;
  check.exact("weight_hh", in.weight_hh, {rows, shape.hidden}, dtype, "(G H, H)");
  check.exact("weight_ih", in.weight_ih, {rows, shape.input}, dtype, "(G H, I)");
  if (in.bias_ih) check.exact("bias_ih", in.bias_ih, {rows}, dtype, "(G H,)");
  if (in.bias_hh) check.exact("bias_hh", in.bias_hh, {rows}, dtype, "(G H,)");
  if (in.h_0) check.exact("h_0", in.h_0, {shape.batch, shape.hidden}, dtype, "(N, H)");
  if (in.c_0) check.exact("c_0", in.c_0, {shape.batch, shape.hidden}, dtype, "(N, H)");
  check_lengths(check, in.lengths, shape.batch, shape.steps);
  return shape;
}

/// A gradient has the shape of what it is a gradient of.
void check_gradient(const Check& check, const char* name, const Array& gradient, const Array& of) {
  if (gradient) check.alike(name, gradient, name + 1, of);
}

void forward(const Context& context, const Array& output, const Array& h_n, const Array& c_n, const Array& reserve,
             const RecurrentInputs& in, const Array& packed, const Array& workspace) {
  const Check check(op_of(in.cell));
  const RecurrentShape shape = check_inputs(check, in);
  const DType dtype = in.x.dtype;
  const Plan plan = recurrent_forward_plan(context, shape, dtype, in.cell, static_cast<bool>(reserve));
  check.exact("output", output, {shape.batch, shape.steps, shape.hidden}, dtype, "(N, T, H)");
  check.exact("h_n", h_n, {shape.batch, shape.hidden}, dtype, "(N, H)");
  if (in.cell == RecurrentCell::lstm) check.exact("c_n", c_n, {shape.batch, shape.hidden}, dtype, "(N, H)");
  if (reserve) check.memory("reserve", reserve, plan.reserve_bytes);
  check.packed(packed, plan.packed_bytes);
  check.workspace(workspace, plan.workspace_bytes);
  const py::gil_scoped_release released;
  recurrent_forward(context, output, h_n, c_n, reserve, in, packed, workspace);
}

void pack(const Context& context, const Array& packed, const Array& weight_ih, const Array& weight_hh,
          std::int64_t batch, std::int64_t steps, RecurrentCell cell) {
  const Check check(op_of(cell));
  check.floating("weight_hh", weight_hh);
  check.shape("weight_hh", weight_hh, {-1, -1}, "(G H, H)");
  check.shape("weight_ih", weight_ih, {-1, -1}, "(G H, I)");
  const RecurrentShape shape{batch, steps, weight_ih.shape[1], weight_hh.shape[1]};
  const std::int64_t rows = gates_of(cell) * shape.hidden;
  check.exact("weight_hh", weight_hh, {rows, shape.hidden}, weight_hh.dtype, "(G H, H)");
  check.exact("weight_ih", weight_ih, {rows, shape.input}, weight_hh.dtype, "(G H, I)");
  const std::int64_t bytes = recurrent_forward_plan(context, shape, weight_hh.dtype, cell, false).packed_bytes;
  check.packed(packed, bytes);
  if (bytes == 0) return;
  const py::gil_scoped_release released;
  recurrent_pack(context, packed, weight_ih, weight_hh, shape, cell);
}

void backward(const Context& context, const RecurrentGradients& gradients, const Array& doutput, const Array& dh_n,
              const Array& dc_n, const RecurrentInputs& in, const Array& output, const Array& reserve,
              const Array& workspace) {
  const Check check(op_of(in.cell));
  const RecurrentShape shape = check_inputs(check, in);
  const DType dtype = in.x.dtype;
  const Plan plan = recurrent_backward_plan(context, shape, dtype, in.cell);
  check.exact("output", output, {shape.batch, shape.steps, shape.hidden}, dtype, "(N, T, H)");
  check_gradient(check, "doutput", doutput, output);
  if (dh_n) check.exact("dh_n", dh_n, {shape.batch, shape.hidden}, dtype, "(N, H)");
  if (dc_n) check.exact("dc_n", dc_n, {shape.batch, shape.hidden}, dtype, "(N, H)");
  check_gradient(check, "dx", gradients.x, in.x);
  check_gradient(check, "dh_0", gradients.h_0, in.h_0);
  check_gradient(check, "dc_0", gradients.c_0, in.c_0);
  check_gradient(check, "dweight_ih", gradients.weight_ih, in.weight_ih);
  check_gradient(check, "dweight_hh", gradients.weight_hh, in.weight_hh);
  check_gradient(check, "dbias_ih", gradients.bias_ih, in.bias_ih);
  check_gradient(check, "dbias_hh", gradients.bias_hh, in.bias_hh);
  check.memory("reserve", reserve, plan.reserve_bytes);
  check.workspace(workspace, plan.workspace_bytes);
  const py::gil_scoped_release released;
  recurrent_backward(context, gradients, doutput, dh_n, dc_n, in, output, reserve, workspace);
}

}  // namespace

IMGREC_BINDINGS(recurrent) {
  module.def(
      "recurrent_forward_plan",
      [](Context context, std::int64_t batch, std::int64_t steps, std::int64_t input, std::int64_t hidden, DType dtype,
         const std::string& cell, bool training) {
        return recurrent_forward_plan(context, {batch, steps, input, hidden}, dtype, cell_named(cell), training);
      },
      py::arg("context"), py::arg("batch"), py::arg("steps"), py::arg("input"), py::arg("hidden"), py::arg("dtype"),
      py::arg("cell"), py::arg("training"));

  module.def(
      "recurrent_pack",
      [](Context context, const Output& packed, const Array& weight_ih, const Array& weight_hh, std::int64_t batch,
         std::int64_t steps,
         const std::string& cell) { pack(context, packed, weight_ih, weight_hh, batch, steps, cell_named(cell)); },
      py::arg("context"), py::arg("packed"), py::arg("weight_ih"), py::arg("weight_hh"), py::arg("batch"),
      py::arg("steps"), py::arg("cell"));

  module.def(
      "recurrent_forward",
      [](Context context, const Output& output, const Output& h_n, const Output& c_n, const Output& reserve,
         const Tensors& inputs, const Array& packed, const std::string& cell, bool reverse, const Output& workspace) {
        forward(context, output, h_n, c_n, reserve, inputs_of(inputs, cell, reverse), packed, workspace);
      },
      py::arg("context"), py::arg("output"), py::arg("h_n"), py::arg("c_n"), py::arg("reserve"), py::arg("inputs"),
      py::arg("packed"), py::arg("cell"), py::arg("reverse"), py::arg("workspace"));

  module.def(
      "recurrent_backward_plan",
      [](Context context, std::int64_t batch, std::int64_t steps, std::int64_t input, std::int64_t hidden, DType dtype,
         const std::string& cell) {
        return recurrent_backward_plan(context, {batch, steps, input, hidden}, dtype, cell_named(cell));
      },
      py::arg("context"), py::arg("batch"), py::arg("steps"), py::arg("input"), py::arg("hidden"), py::arg("dtype"),
      py::arg("cell"));

  module.def(
      "recurrent_backward",
      [](Context context, const std::array<Output, 7>& gradients, const Array& doutput, const Array& dh_n,
         const Array& dc_n, const Tensors& inputs, const std::string& cell, bool reverse, const Array& output,
         const Array& reserve, const Output& workspace) {
        const auto& [dx, dh_0, dc_0, dweight_ih, dweight_hh, dbias_ih, dbias_hh] = gradients;
        backward(context, {dx, dh_0, dc_0, dweight_ih, dweight_hh, dbias_ih, dbias_hh}, doutput, dh_n, dc_n,
                 inputs_of(inputs, cell, reverse), output, reserve, workspace);
      },
      py::arg("context"), py::arg("gradients"), py::arg("doutput"), py::arg("dh_n"), py::arg("dc_n"), py::arg("inputs"),
      py::arg("cell"), py::arg("reverse"), py::arg("output"), py::arg("reserve"), py::arg("workspace"));
}

}  // namespace imgrec::bindings
