#include "ops/matmul.h"

#include "bindings/activation.h"

namespace imgrec::bindings {
namespace {

/// The matrices (batch, rows, columns) of an operand. Beside a matrix b, all rows of an operand (..., columns) are one.
Array matrices(const Check& check, const char* name, const Array& x, bool one) {
  if (!one) {
    check.shape(name, x, {-1, -1, -1}, "(batch, rows, columns)");
    return x;
  }
  if (x.ndim < 1) check.shape_error(std::string(name) + " is " + describe(x) + ", expected a dimension at least");
  if (x.ndim == 2) return {x.data, x.dtype, 3, {1, x.shape[0], x.shape[1]}, {0, x.strides[0], x.strides[1]}};
  check.contiguous(name, x);
  const Array rows = as_rows(x);
  return {x.data, x.dtype, 3, {1, rows.shape[0], rows.shape[1]}, {0, rows.shape[1], 1}};
}

}  // namespace

IMGREC_BINDINGS(matmul) {
  module.def(
      "matmul_plan",
      [](Context context, std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k, DType dtype) {
        return matmul_plan(context, {batch, m, n, k}, dtype);
      },
      py::arg("context"), py::arg("batch"), py::arg("m"), py::arg("n"), py::arg("k"), py::arg("dtype"));

  module.def(
      "matmul_pack",
      [](Context context, const Output& packed, const Array& b, std::int64_t m) {
        const Check check("matmul");
        check.floating("b", b);
        const Array b3 = matrices(check, "b", b, b.ndim == 2);
        const MatmulShape shape{b3.shape[0], m, b3.shape[2], b3.shape[1]};
        const std::int64_t bytes = matmul_plan(context, shape, b.dtype).packed_bytes;
        check.packed(packed, bytes);
        if (bytes == 0) return;
        const py::gil_scoped_release released;
        matmul_pack(context, packed, b3, shape);
      },
      py::arg("context"), py::arg("packed"), py::arg("b"), py::arg("m"));

  module.def(
      "matmul",
      [](Context context, const Output& result, const Array& left, const Array& right, const Array& packed,
         const Array& bias, const Array& added, const std::string& activation_name, const Output& workspace) {
        const Check check("matmul");
        const Activation activation = activation_named("matmul", activation_name);
        check.floating("a", left);
        const bool one = right.ndim == 2;
        const Array a = matrices(check, "a", left, one), b = matrices(check, "b", right, one);
        const Array c = matrices(check, "c", result, one);
        check.dtype("b", b, a.dtype);
        check.shape("b", b, {a.shape[0], a.shape[2], -1}, "(batch, K, N)");
        check.exact("c", c, {a.shape[0], a.shape[1], b.shape[2]}, a.dtype, "(batch, M, N)");
        if (bias) check.exact("bias", bias, {b.shape[2]}, a.dtype, "(N,)");
        const Array residual = added ? matrices(check, "residual", added, one) : added;
        if (residual) check.alike("residual", residual, "c", c);
        const Plan plan = matmul_plan(context, {a.shape[0], a.shape[1], b.shape[2], a.shape[2]}, a.dtype);
        check.packed(packed, plan.packed_bytes);
        check.workspace(workspace, plan.workspace_bytes);
        if (c.size() == 0) return;
        const py::gil_scoped_release released;
        matmul(context, c, a, b, packed, bias, residual, activation, workspace);
      },
      py::arg("context"), py::arg("c"), py::arg("a"), py::arg("b"), py::arg("packed"), py::arg("bias"),
      py::arg("residual"), py::arg("activation"), py::arg("workspace"));
}

}  // namespace imgrec::bindings
