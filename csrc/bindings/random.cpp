#include "ops/random.h"

#include "bindings/array.h"

namespace imgrec::bindings {
namespace {

void check_state(const Check& check, const Array& state) {
  check.exact("state", state, {2}, DType::int64, "(seed, offset)");
}

void check_draw(const Check& check, const Array& out, const Array& state) {
  check_state(check, state);
  check.contiguous("out", out);
  if (out.dtype != DType::float32) check.dtype("out", out, DType::float64);
}

}  // namespace

IMGREC_BINDINGS(random) {
  module.def(
      "random_uniform",
      [](Context context, const Output& out, const Array& state, double low, double high) {
        check_draw(Check("random_uniform"), out, state);
        const py::gil_scoped_release released;
        random_uniform(context, out, state, low, high);
      },
      py::arg("context"), py::arg("out"), py::arg("state"), py::arg("low"), py::arg("high"));

  module.def(
      "random_normal",
      [](Context context, const Output& out, const Array& state, double mean, double deviation) {
        check_draw(Check("random_normal"), out, state);
        const py::gil_scoped_release released;
        random_normal(context, out, state, mean, deviation);
      },
      py::arg("context"), py::arg("out"), py::arg("state"), py::arg("mean"), py::arg("deviation"));

  module.def(
      "random_bits",
      [](Context context, const Output& out, const Array& state, std::uint64_t first) {
        const Check check("random_bits");
        check_state(check, state);
        check.exact("out", out, {-1, 4}, DType::int64, "(n, 4)");
        random_bits(context, out, state, first);
      },
      py::arg("context"), py::arg("out"), py::arg("state"), py::arg("first"));

  module.def(
      "dropout",
      [](Context context, const Output& y, const Array& x, const Array& state, double probability) {
        const Check check("dropout");
        check_state(check, state);
        check.floating("x", x);
        check.contiguous("x", x);
        check.alike("y", y, "x", x);
        const py::gil_scoped_release released;
        dropout(context, y, x, state, probability);
      },
      py::arg("context"), py::arg("y"), py::arg("x"), py::arg("state"), py::arg("probability"));
}

}  // namespace imgrec::bindings
