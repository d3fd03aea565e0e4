// For imgrec_engine/ops/indexing.py; the arguments are described in ops/indexing.h:
//
//   index_add(context, y, rows, order, positions, workspace), with index_add_plan(context, n, columns)
//
// What `order` and `positions` hold is not checked: it may be in the memory of a GPU.
#include "ops/indexing.h"

#include "bindings/array.h"

namespace imgrec::bindings {

IMGREC_BINDINGS(indexing) {
  module.def("index_add_plan", &index_add_plan, py::arg("context"), py::arg("rows"), py::arg("columns"));

  module.def(
      "index_add",
      [](Context context, const Output& y, const Array& rows, const Array& order, const Array& positions,
         const Output& workspace) {
        const Check check("index_add");
        check.floating("rows", rows);
        check.shape("rows", rows, {-1, -1}, "(n, columns)");
        check.contiguous("rows", rows);
        check.exact("y", y, {-1, rows.shape[1]}, rows.dtype, "(count, columns)");
        check.exact("order", order, {rows.shape[0]}, DType::int64, "(n,)");
        check.exact("positions", positions, {rows.shape[0]}, DType::int64, "(n,)");
        check.workspace(workspace, index_add_plan(context, rows.shape[0], rows.shape[1]).workspace_bytes);
        const py::gil_scoped_release released;
        index_add(context, y, rows, order, positions, workspace);
      },
      py::arg("context"), py::arg("y"), py::arg("rows"), py::arg("order"), py::arg("positions"), py::arg("workspace"));
}

}  // namespace imgrec::bindings
