#include "bindings/activation.h"

namespace imgrec::bindings {

IMGREC_BINDINGS(activation) {
  module.def(
      "activation_forward",
      [](const Context& context, const Array& y, const Array& x, const std::string& name) {
        const Check check(name.c_str());
        const Activation activation = activation_named("activation", name);
        check.floating("x", x);
        check.contiguous("x", x);
        check.dtype("y", y, x.dtype);
        check.same_shape("y", y, "x", x);
        check.contiguous("y", y);
        const py::gil_scoped_release released;
        activation_forward(context, y, x, activation);
      },
      py::arg("context"), py::arg("y"), py::arg("x"), py::arg("activation"));

  module.def(
      "activation_backward",
      [](const Context& context, const Array& dx, const Array& dy, const Array& saved, const std::string& name) {
        const Check check(name.c_str());
        const Activation activation = activation_named("activation", name);
        check.floating("dy", dy);
        check.contiguous("dy", dy);
        for (const auto& [argument, array] : {std::pair{"dx", &dx}, std::pair{"saved", &saved}}) {
          check.dtype(argument, *array, dy.dtype);
          check.same_shape(argument, *array, "dy", dy);
          check.contiguous(argument, *array);
        }
        const py::gil_scoped_release released;
        activation_backward(context, dx, dy, saved, activation);
      },
      py::arg("context"), py::arg("dx"), py::arg("dy"), py::arg("saved"), py::arg("activation"));
}

}  // namespace imgrec::bindings
