#include "ops/softmax.h"

#include "bindings/array.h"

namespace imgrec::bindings {
namespace {

Softmax softmax_kind(bool logarithmic) { return logarithmic ? Softmax::logarithmic : Softmax::plain; }

void check_alike(const Check& check, const char* name, const Array& array, const Array& x) {
  check.dtype(name, array, x.dtype);
  check.same_shape(name, array, "the input", x);
  check.contiguous(name, array);
}

}  // namespace

IMGREC_BINDINGS(softmax) {
  module.def(
      "softmax_forward",
      [](const Context& context, const Array& y, const Array& x, bool logarithmic) {
        const Check check(logarithmic ? "log_softmax" : "softmax");
        check.floating("x", x);
        check.contiguous("x", x);
        if (x.ndim < 1) check.shape_error("x is " + describe(x) + ", expected a dimension at least");
        check_alike(check, "y", y, x);
        const py::gil_scoped_release released;
        softmax_forward(context, y, x, softmax_kind(logarithmic));
      },
      py::arg("context"), py::arg("y"), py::arg("x"), py::arg("logarithmic"));

  module.def(
      "softmax_backward",
      [](const Context& context, const Array& dx, const Array& dy, const Array& y, bool logarithmic) {
        const Check check(logarithmic ? "log_softmax" : "softmax");
        check.floating("y", y);
        check.contiguous("y", y);
        if (y.ndim < 1) check.shape_error("y is " + describe(y) + ", expected a dimension at least");
        check_alike(check, "dy", dy, y);
        check_alike(check, "dx", dx, y);
        const py::gil_scoped_release released;
        softmax_backward(context, dx, dy, y, softmax_kind(logarithmic));
      },
      py::arg("context"), py::arg("dx"), py::arg("dy"), py::arg("y"), py::arg("logarithmic"));
}

}  // namespace imgrec::bindings
