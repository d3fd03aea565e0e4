#include "bindings/activation.h"

namespace imgrec::bindings {

IMGREC_BINDINGS(activation) {
  module.def(
      "activation_forward",
      [](Context context, const Output& y, const Array& x, const std::string& name) {
        const Check check(name.c_str());
        const Activation activation = activation_named("activation", name);
        check.floating("x", x);
        check.contiguous("x", x);
        check.alike("y", y, "x", x);
        const py::gil_scoped_release released;
        activation_forward(context, y, x, activation);
      },
      py::arg("context"), py::arg("y"), py::arg("x"), py::arg("activation"));

  module.def(
      "activation_backward",
      [](Context context, const Output& dx, const Array& dy, const Array& saved, const std::string& name) {
        const Check check(name.c_str());
        const Activation activation = activation_named("activation", name);
        check.floating("dy", dy);
        check.contiguous("dy", dy);
        check.alike("dx", dx, "dy", dy);
        check.alike("saved", saved, "dy", dy);
        const py::gil_scoped_release released;
        activation_backward(context, dx, dy, saved, activation);
      },
      py::arg("context"), py::arg("dx"), py::arg("dy"), py::arg("saved"), py::arg("activation"));
}

}  // namespace imgrec::bindings
