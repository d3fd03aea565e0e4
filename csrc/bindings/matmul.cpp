#include "ops/matmul.h"

#include "bindings/activation.h"

namespace imgrec::bindings {

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
        check.shape("b", b, {-1, -1, -1}, "(batch, K, N)");
        const MatmulShape shape{b.shape[0], m, b.shape[2], b.shape[1]};
        const std::int64_t bytes = matmul_plan(context, shape, b.dtype).packed_bytes;
        check.packed(packed, bytes);
        if (bytes == 0) return;
        const py::gil_scoped_release released;
        matmul_pack(context, packed, b, shape);
      },
      py::arg("context"), py::arg("packed"), py::arg("b"), py::arg("m"));

  module.def(
      "matmul",
      [](Context context, const Output& c, const Array& a, const Array& b, const Array& packed, const Array& bias,
         const std::string& activation_name, const Output& workspace) {
        const Check check("matmul");
        const Activation activation = activation_named("matmul", activation_name);
        check.floating("a", a);
        check.shape("a", a, {-1, -1, -1}, "(batch, M, K)");
        check.dtype("b", b, a.dtype);
        check.shape("b", b, {a.shape[0], a.shape[2], -1}, "(batch, K, N)");
        check.exact("c", c, {a.shape[0], a.shape[1], b.shape[2]}, a.dtype, "(batch, M, N)");
        if (bias) check.exact("bias", bias, {b.shape[2]}, a.dtype, "(N,)");
        const Plan plan = matmul_plan(context, {a.shape[0], a.shape[1], b.shape[2], a.shape[2]}, a.dtype);
        check.packed(packed, plan.packed_bytes);
        check.workspace(workspace, plan.workspace_bytes);
        if (c.size() == 0) return;
        const py::gil_scoped_release released;
        matmul(context, c, a, b, packed, bias, activation, workspace);
      },
      py::arg("context"), py::arg("c"), py::arg("a"), py::arg("b"), py::arg("packed"), py::arg("bias"),
      py::arg("activation"), py::arg("workspace"));
}

}  // namespace imgrec::bindings
