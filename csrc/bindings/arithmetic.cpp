#include "ops/arithmetic.h"

#include "bindings/array.h"

namespace imgrec::bindings {

IMGREC_BINDINGS(arithmetic) {
  module.def(
      "add",
      [](Context context, const Output& z, const Array& x, const Array& y) {
        const Check check("add");
        check.floating("x", x);
        check.contiguous("x", x);
        check.alike("z", z, "x", x);
        check.dtype("y", y, x.dtype);
        check.contiguous("y", y);
        const int missing = x.ndim - y.ndim;
        bool fits = missing >= 0 && y.size() > 0;
        for (int i = 0; fits && i < y.ndim; ++i) fits = y.shape[i] == x.shape[missing + i];
        if (!fits) check.shape_error("y is " + describe(y) + ", expected the last dimensions of x, " + describe(x));
        const py::gil_scoped_release released;
        add(context, z, x, y);
      },
      py::arg("context"), py::arg("z"), py::arg("x"), py::arg("y"));

  module.def("sum_rows_plan", &sum_rows_plan, py::arg("context"), py::arg("batch"), py::arg("rows"), py::arg("columns"),
             py::arg("dtype"));

  module.def(
      "sum_rows",
      [](Context context, const Output& y, const Array& x, double divisor, const Output& workspace) {
        const Check check("sum");
        check.floating("x", x);
        check.shape("x", x, {-1, -1, -1}, "(batch, rows, columns)");
        check.contiguous("x", x);
        check.exact("y", y, {x.shape[0], x.shape[2]}, x.dtype, "(batch, columns)");
        const Plan plan = sum_rows_plan(context, x.shape[0], x.shape[1], x.shape[2], x.dtype);
        check.workspace(workspace, plan.workspace_bytes);
        const py::gil_scoped_release released;
        sum_rows(context, y, x, divisor, workspace);
      },
      py::arg("context"), py::arg("y"), py::arg("x"), py::arg("divisor"), py::arg("workspace"));
}

}  // namespace imgrec::bindings
