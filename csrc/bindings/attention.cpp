#include "ops/attention.h"

#include "bindings/array.h"

namespace imgrec::bindings {
namespace {

const Check check("scaled_dot_product_attention");

void check_rows(const char* name, const Array& array) {
  if (array.size() > 0 && array.shape[3] > 1 && array.strides[3] != 1)
    check.shape_error(std::string(name) + "'s last dimension must lie without gaps");
}

DType statistics_dtype(DType dtype) { return dtype == DType::float64 ? DType::float64 : DType::float32; }

/// Gathers the inputs of all three functions, checked against each other.
AttentionInputs checked_inputs(const Array& query, const Array& key, const Array& value, const Array& mask,
                               const Array& state, double scale, bool causal, double dropout) {
  check.floating("query", query);
  check.shape("query", query, {-1, -1, -1, -1}, "(N, S_q, heads, head_size)");
  check.dtype("key", key, query.dtype);
  check.shape("key", key, {query.shape[0], -1, -1, query.shape[3]}, "(N, S_k, kv_heads, head_size)");
  check.dtype("value", value, query.dtype);
  check.shape("value", value, {query.shape[0], key.shape[1], key.shape[2], -1}, "(N, S_k, kv_heads, value_size)");
  if (key.shape[2] == 0 || query.shape[2] % key.shape[2] != 0)
    check.shape_error("query has " + std::to_string(query.shape[2]) + " heads and key " + std::to_string(key.shape[2]) +
                      "; expected a multiple");
  check_rows("query", query);
  check_rows("key", key);
  check_rows("value", value);
  if (mask) {
    check.shape("attn_mask", mask, {query.shape[0], query.shape[2], query.shape[1], key.shape[1]},
                "(N, heads, S_q, S_k)");
    if (mask.dtype != DType::boolean) check.dtype("attn_mask", mask, query.dtype);
  }
  if (!(dropout >= 0 && dropout <= 1))
    throw py::value_error("scaled_dot_product_attention: dropout_p is " + std::to_string(dropout) +
                          ", expected a number from 0 to 1");
  if (dropout > 0) check.exact("state", state, {2}, DType::int64, "[seed, offset]");
  return {query, key, value, mask, state, scale, causal, dropout};
}

void check_results(const AttentionInputs& inputs, const Array& out, const Array& lse) {
  const std::int64_t* query = inputs.query.shape;
  check.exact("out", out, {query[0], query[1], query[2], inputs.value.shape[3]}, inputs.query.dtype,
              "(N, S_q, heads, value_size)");
  check.exact("lse", lse, {query[0], query[2], query[1]}, statistics_dtype(inputs.query.dtype), "(N, heads, S_q)");
}

using AttentionLengths = std::vector<std::int64_t>;
using PlanFunction = Plan (*)(const Context&, const AttentionShape&, DType);

void bind_plan(py::module_& module, const char* name, PlanFunction plan) {
  module.def(
      name,
      [plan](Context context, const AttentionLengths& query, const AttentionLengths& key, const AttentionLengths& value,
             DType dtype) {
        const auto inputs = checked_inputs(described(query, dtype), described(key, dtype), described(value, dtype), {},
                                           {}, 1, false, 0);
        return plan(context, attention_shape(inputs), dtype);
      },
      py::arg("context"), py::arg("query_shape"), py::arg("key_shape"), py::arg("value_shape"), py::arg("dtype"));
}

void bind_attention_forward(py::module_& module) {
  module.def(
      "attention_forward",
      [](Context context, const Output& out, const Output& lse, const Array& query, const Array& key,
         const Array& value, const Array& mask, const Array& state, double scale, bool causal, double dropout,
         const Output& workspace) {
        const AttentionInputs inputs = checked_inputs(query, key, value, mask, state, scale, causal, dropout);
        check_results(inputs, out, lse);
        check.workspace(workspace,
                        attention_forward_plan(context, attention_shape(inputs), query.dtype).workspace_bytes);
        const py::gil_scoped_release released;
        attention_forward(context, out, lse, inputs, workspace);
      },
      py::arg("context"), py::arg("out"), py::arg("lse"), py::arg("query"), py::arg("key"), py::arg("value"),
      py::arg("mask"), py::arg("state"), py::arg("scale"), py::arg("causal"), py::arg("dropout"), py::arg("workspace"));
}

void bind_attention_backward(py::module_& module) {
  module.def(
      "attention_backward",
      [](Context context, const Output& dquery, const Output& dkey, const Output& dvalue, const Array& dout,
         const Array& out, const Array& lse, const Array& query, const Array& key, const Array& value,
         const Array& mask, const Array& state, double scale, bool causal, double dropout, const Output& workspace) {
        const AttentionInputs inputs = checked_inputs(query, key, value, mask, state, scale, causal, dropout);
        check_results(inputs, out, lse);
        check.alike("dout", dout, "out", out);
        check.alike("dquery", dquery, "query", query);
        check.alike("dkey", dkey, "key", key);
        check.alike("dvalue", dvalue, "value", value);
        check.workspace(workspace,
                        attention_backward_plan(context, attention_shape(inputs), query.dtype).workspace_bytes);
        const py::gil_scoped_release released;
        attention_backward(context, dquery, dkey, dvalue, dout, out, lse, inputs, workspace);
      },
      py::arg("context"), py::arg("dquery"), py::arg("dkey"), py::arg("dvalue"), py::arg("dout"), py::arg("out"),
      py::arg("lse"), py::arg("query"), py::arg("key"), py::arg("value"), py::arg("mask"), py::arg("state"),
      py::arg("scale"), py::arg("causal"), py::arg("dropout"), py::arg("workspace"));
}

void bind_attention_mask_backward(py::module_& module) {
  module.def(
      "attention_mask_backward",
      [](Context context, const Output& dmask, const Array& dout, const Array& out, const Array& lse,
         const Array& query, const Array& key, const Array& value, const Array& mask, const Array& state, double scale,
         bool causal, double dropout, const Output& workspace) {
        const AttentionInputs inputs = checked_inputs(query, key, value, mask, state, scale, causal, dropout);
        check_results(inputs, out, lse);
        check.alike("dout", dout, "out", out);
        check.dtype("dmask", dmask, query.dtype);
        check.shape("mask", mask, {-1, -1, -1, -1}, "(N, heads, S_q, S_k)");
        check.shape("dmask", dmask, {-1, -1, -1, -1}, "(N or 1, heads or 1, S_q or 1, S_k or 1)");
        for (int i = 0; i < 4; ++i)
          if (dmask.shape[i] != mask.shape[i] && dmask.shape[i] != 1)
            check.shape_error("dmask is " + describe(dmask) + ", which does not broadcast to " + describe(mask));
        check.contiguous("dmask", dmask);
        check.workspace(workspace,
                        attention_mask_backward_plan(context, attention_shape(inputs), query.dtype).workspace_bytes);
        const py::gil_scoped_release released;
        attention_mask_backward(context, dmask, dout, out, lse, inputs, workspace);
      },
      py::arg("context"), py::arg("dmask"), py::arg("dout"), py::arg("out"), py::arg("lse"), py::arg("query"),
      py::arg("key"), py::arg("value"), py::arg("mask"), py::arg("state"), py::arg("scale"), py::arg("causal"),
      py::arg("dropout"), py::arg("workspace"));
}

}  // namespace

IMGREC_BINDINGS(attention) {
  bind_plan(module, "attention_forward_plan", attention_forward_plan);
  bind_plan(module, "attention_backward_plan", attention_backward_plan);
  bind_plan(module, "attention_mask_backward_plan", attention_mask_backward_plan);
  bind_attention_forward(module);
  bind_attention_backward(module);
  bind_attention_mask_backward(module);
}

}  // namespace imgrec::bindings
