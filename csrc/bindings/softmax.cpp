#include "ops/softmax.h"

#include "bindings/array.h"

namespace imgrec::bindings {
namespace {

Softmax softmax_kind(bool logarithmic) { return logarithmic ? Softmax::logarithmic : Softmax::plain; }

}  // namespace

IMGREC_BINDINGS(softmax) {
  module.def(
      "softmax_forward",
      [](Context context, const Output& y, const Array& x, bool logarithmic) {
        const Check check(logarithmic ? "log_softmax" : "softmax");
        check.floating("x", x);
        check.contiguous("x", x);
        if (x.ndim < 1) check.shape_error("x is " + describe(x) + ", expected a dimension at least");
        check.alike("y", y, "x", x);
        const py::gil_scoped_release released;
        softmax_forward(context, y, x, softmax_kind(logarithmic));
      },
      py::arg("context"), py::arg("y"), py::arg("x"), py::arg("logarithmic"));

  module.def(
      "softmax_backward",
      [](Context context, const Output& dx, const Array& dy, const Array& y, bool logarithmic) {
        const Check check(logarithmic ? "log_softmax" : "softmax");
        check.floating("y", y);
        check.contiguous("y", y);
        if (y.ndim < 1) check.shape_error("y is " + describe(y) + ", expected a dimension at least");
        check.alike("dy", dy, "y", y);
        check.alike("dx", dx, "y", y);
        const py::gil_scoped_release released;
        softmax_backward(context, dx, dy, y, softmax_kind(logarithmic));
      },
      py::arg("context"), py::arg("dx"), py::arg("dy"), py::arg("y"), py::arg("logarithmic"));
}

}  // namespace imgrec::bindings
