#include "ops/pool2d.h"

#include <array>

#include "bindings/array.h"

namespace imgrec::bindings {
namespace {

using PoolPair = std::array<std::int64_t, 2>;

std::string pool_text(const PoolPair& pair) {
  std::string text(1, '(');
  text += std::to_string(pair[0]) + ", " + std::to_string(pair[1]);
  return text + ")";
}

void check_pool_images(const Check& check, const char* name, const Array& x) {
  check.floating(name, x);
  check.shape(name, x, {-1, -1, -1, -1}, "(N, H, W, C)");
  check.contiguous(name, x);
}

/// (OH, OW), after checks that the window is possible.
PoolPair pool_output_size(const Check& check, const Array& x, const PoolPair& kernel, const PoolPair& stride,
                          const PoolPair& padding) {
  check_pool_images(check, "x", x);
  PoolPair out;
  for (int i = 0; i < 2; ++i) {
    if (kernel[i] < 1 || kernel[i] > (1 << 15))
      check.shape_error("kernel_size is " + pool_text(kernel) + ", expected 1 to 32768");
    if (stride[i] < 1) check.shape_error("stride is " + pool_text(stride) + ", expected 1 or more");
    if (padding[i] < 0 || padding[i] > kernel[i] / 2)
      check.shape_error("padding is " + pool_text(padding) + ", expected 0 to half of kernel_size " +
                        pool_text(kernel));
    const std::int64_t room = x.shape[1 + i] + 2 * padding[i] - kernel[i];
    if (room < 0)
      check.shape_error("kernel_size " + pool_text(kernel) + " is greater than x with its padding: x is " +
                        describe(x) + ", padding " + pool_text(padding));
    out[i] = room / stride[i] + 1;
  }
  return out;
}

PoolWindow pool_window(const Check& check, const Array& x, const Array& y, const PoolPair& kernel,
                       const PoolPair& stride, const PoolPair& padding) {
  const PoolPair out = pool_output_size(check, x, kernel, stride, padding);
  check.exact("y", y, {x.shape[0], out[0], out[1], x.shape[3]}, x.dtype, "(N, OH, OW, C)");
  return {{kernel[0], kernel[1]}, {stride[0], stride[1]}, {padding[0], padding[1]}};
}

void check_pool_winner(const Check& check, const Array& winner, const Array& y, const PoolWindow& window) {
  const DType dtype = window.kernel[0] * window.kernel[1] <= 256 ? DType::uint8 : DType::int32;
  check.exact("winner", winner, {y.shape[0], y.shape[1], y.shape[2], y.shape[3]}, dtype, "(N, OH, OW, C)");
}

void check_adaptive_pool(const Check& check, const Array& x, const Array& y) {
  check_pool_images(check, "x", x);
  check.exact("y", y, {x.shape[0], -1, -1, x.shape[3]}, x.dtype, "(N, OH, OW, C)");
  if (x.size() == 0 && y.size() != 0) check.shape_error("x is " + describe(x) + ", expected one pixel or more");
}

// In every backward function below dx and dy are checked as x and y: they have their shapes.
void bind_max_pool2d(py::module_& module) {
  module.def(
      "max_pool2d_forward",
      [](Context context, const Output& y, const Output& winner, const Array& x, const PoolPair& kernel,
         const PoolPair& stride, const PoolPair& padding) {
        const Check check("max_pool2d");
        const PoolWindow window = pool_window(check, x, y, kernel, stride, padding);
        check_pool_winner(check, winner, y, window);
        if (y.size() == 0) return;
        const py::gil_scoped_release released;
        max_pool2d_forward(context, y, winner, x, window);
      },
      py::arg("context"), py::arg("y"), py::arg("winner"), py::arg("x"), py::arg("kernel_size"), py::arg("stride"),
      py::arg("padding"));

  module.def(
      "max_pool2d_backward",
      [](Context context, const Output& dx, const Array& dy, const Array& winner, const PoolPair& kernel,
         const PoolPair& stride, const PoolPair& padding) {
        const Check check("max_pool2d");
        const PoolWindow window = pool_window(check, dx, dy, kernel, stride, padding);
        check_pool_winner(check, winner, dy, window);
        if (dx.size() == 0) return;
        const py::gil_scoped_release released;
        max_pool2d_backward(context, dx, dy, winner, window);
      },
      py::arg("context"), py::arg("dx"), py::arg("dy"), py::arg("winner"), py::arg("kernel_size"), py::arg("stride"),
      py::arg("padding"));
}

void bind_avg_pool2d(py::module_& module) {
  module.def(
      "avg_pool2d_forward",
      [](Context context, const Output& y, const Array& x, const PoolPair& kernel, const PoolPair& stride,
         const PoolPair& padding) {
        const PoolWindow window = pool_window(Check("avg_pool2d"), x, y, kernel, stride, padding);
        if (y.size() == 0) return;
        const py::gil_scoped_release released;
        avg_pool2d_forward(context, y, x, window);
      },
      py::arg("context"), py::arg("y"), py::arg("x"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"));

  module.def(
      "avg_pool2d_backward",
      [](Context context, const Output& dx, const Array& dy, const PoolPair& kernel, const PoolPair& stride,
         const PoolPair& padding) {
        const PoolWindow window = pool_window(Check("avg_pool2d"), dx, dy, kernel, stride, padding);
        if (dx.size() == 0) return;
        const py::gil_scoped_release released;
        avg_pool2d_backward(context, dx, dy, window);
      },
      py::arg("context"), py::arg("dx"), py::arg("dy"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"));
}

void bind_adaptive_avg_pool2d(py::module_& module) {
  module.def(
      "adaptive_avg_pool2d_forward",
      [](Context context, const Output& y, const Array& x) {
        check_adaptive_pool(Check("adaptive_avg_pool2d"), x, y);
        if (y.size() == 0) return;
        const py::gil_scoped_release released;
        adaptive_avg_pool2d_forward(context, y, x);
      },
      py::arg("context"), py::arg("y"), py::arg("x"));

  module.def(
      "adaptive_avg_pool2d_backward",
      [](Context context, const Output& dx, const Array& dy) {
        check_adaptive_pool(Check("adaptive_avg_pool2d"), dx, dy);
        if (dx.size() == 0) return;
        const py::gil_scoped_release released;
        adaptive_avg_pool2d_backward(context, dx, dy);
      },
      py::arg("context"), py::arg("dx"), py::arg("dy"));
}

}  // namespace

IMGREC_BINDINGS(pool2d) {
  module.def(
      "pool2d_output_size",
      [](const std::string& op, const std::vector<std::int64_t>& x_shape, DType dtype, const PoolPair& kernel,
         const PoolPair& stride, const PoolPair& padding) {
        return pool_output_size(Check(op.c_str()), described(x_shape, dtype), kernel, stride, padding);
      },
      py::arg("op"), py::arg("x_shape"), py::arg("dtype"), py::arg("kernel_size"), py::arg("stride"),
      py::arg("padding"), "(OH, OW) of a pooling operation; ShapeError where its window is not possible.");

  bind_max_pool2d(module);
  bind_avg_pool2d(module);
  bind_adaptive_avg_pool2d(module);
}

}  // namespace imgrec::bindings
