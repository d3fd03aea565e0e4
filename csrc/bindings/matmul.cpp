#include "ops/matmul.h"

#include "bindings/array.h"

namespace imgrec::bindings {

IMGREC_BINDINGS(matmul) {
  module.def(
      "matmul_plan",
      [](Context context, std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k, DType dtype) {
        return matmul_plan(context, {batch, m, n, k}, dtype);
      },
      py::arg("context"), py::arg("batch"), py::arg("m"), py::arg("n"), py::arg("k"), py::arg("dtype"));

  module.def(
      "matmul",
      [](Context context, const Output& c, const Array& a, const Array& b, const Output& workspace) {
        const Check check("matmul");
        check.floating("a", a);
        check.shape("a", a, {-1, -1, -1}, "(batch, M, K)");
        check.dtype("b", b, a.dtype);
        check.shape("b", b, {a.shape[0], a.shape[2], -1}, "(batch, K, N)");
        check.exact("c", c, {a.shape[0], a.shape[1], b.shape[2]}, a.dtype, "(batch, M, N)");
        const MatmulShape shape{a.shape[0], a.shape[1], b.shape[2], a.shape[2]};
        check.workspace(workspace, matmul_plan(context, shape, a.dtype).workspace_bytes);
        if (c.size() == 0) return;
        const py::gil_scoped_release released;
        matmul(context, c, a, b, workspace);
      },
      py::arg("context"), py::arg("c"), py::arg("a"), py::arg("b"), py::arg("workspace"));
}

}  // namespace imgrec::bindings
