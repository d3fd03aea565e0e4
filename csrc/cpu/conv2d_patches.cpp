// How convolution reads images and writes results; see conv2d.h.
#include <numeric>
#include <type_traits>

#include "cpu/conv2d.h"
#include "cpu/vector_io.h"

namespace imgrec::cpu {

Axis forward_axis(const Conv2dAxis& axis) {
  return {axis.input, axis.output(), axis.stride, -axis.padding_before, axis.dilation, axis.kernel};
}

PhaseAxis backward_axis(const Conv2dAxis& axis, std::int64_t phase) {
  // Input i = phase + m stride met tap t at output (i + padding - t dilation) / stride where that is a whole number:
  // for t in one residue class modulo tap_step, or none.
  const std::int64_t tap_step = axis.stride / std::gcd(axis.stride, axis.dilation);
  const std::int64_t candidates = std::min(tap_step, axis.kernel);
  std::int64_t first = 0;
  while (first < candidates && (phase + axis.padding_before - first * axis.dilation) % axis.stride != 0) ++first;
  const bool met = first < candidates;
  const std::int64_t taps = met ? (axis.kernel - 1 - first) / tap_step + 1 : 0;
  const std::int64_t origin = met ? (phase + axis.padding_before - first * axis.dilation) / axis.stride : 0;
  const std::int64_t outputs = phase < axis.input ? (axis.input - phase - 1) / axis.stride + 1 : 0;
  return {{axis.output(), outputs, 1, origin, -(tap_step * axis.dilation / axis.stride), taps}, phase, first, tap_step};
}

template <class T>
bool Patches<T>::inside() const {
  for (const Axis& axis : {height, width})
    for (std::int64_t tap = 0; tap < axis.taps; ++tap)
      if (axis.outputs_inside(tap) != std::pair<std::int64_t, std::int64_t>(0, axis.outputs)) return false;
  return true;
}

template <class T>
void Source<T>::plan(DType dtype, Workspace& workspace) {
  copied = size_of(dtype) != sizeof(T) || top + bottom + left + right > 0;
  if (copied) copy = workspace.take<T>(batch * (top + height + bottom) * (left + width + right) * channels);
}

template <class T>
void Source<T>::read(const Context& context, const Array& image, Patches<T>& patches) const {
  patches.data = copied ? copy : image.as<const T>();
  if (!copied) return;
  const std::int64_t rows = top + height + bottom, row_size = (left + width + right) * channels;
  const std::int64_t grain = std::max<std::int64_t>(1, (std::int64_t{1} << 14) / std::max<std::int64_t>(row_size, 1));
  const auto copy_row = [&](std::int64_t number) {
    const std::int64_t row = number % rows - top;
    T* to = copy + number * row_size;
    if (row < 0 || row >= height) return std::fill(to, to + row_size, T(0));
    const std::int64_t from = (number / rows * height + row) * width * channels;
    std::fill(to, to + left * channels, T(0));
    to += left * channels;
    widen_all(to, image.data, image.dtype, from, width * channels);
    to += width * channels;
    std::fill(to, to + right * channels, T(0));
  };
  parallel_range(context, batch * rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t number = begin; number < end; ++number) copy_row(number);
  });
}

template <class T>
void Output<T>::store(void* to, const T* values, std::int64_t ld, std::int64_t begin, std::int64_t rows,
                      std::int64_t first, std::int64_t count, const Patches<T>& patches) const {
  for_floating(dtype, [&](auto tag) {
    using S = decltype(tag);
    if constexpr (std::is_same_v<Compute<S>, T>) {
      Pixel pixel(begin, patches.height, patches.width);
      for (std::int64_t r = 0; r < rows; ++r, values += ld, pixel.next(patches.height, patches.width)) {
        const std::int64_t row = row_start + pixel.row * row_step, column = column_start + pixel.column * column_step;
        S* elements = static_cast<S*>(to) + ((pixel.image * height + row) * width + column) * channels + first;
        for_vectors<S>(0, count, [&](std::int64_t i, int n) { store_narrow(elements + i, load(values + i), n); });
      }
    }
  });
}

template <class T>
void Output<T>::write(T* values, std::int64_t ld, std::int64_t begin, std::int64_t rows, std::int64_t first,
                      std::int64_t count, const Patches<T>& patches) const {
  if (pre_activation) store(pre_activation, values, ld, begin, rows, first, count, patches);
  if (activation != Activation::none) {
    // The columns beyond `count` take part where there are any: one call for the tile is cheaper.
    const Array view{values, sizeof(T) == 8 ? DType::float64 : DType::float32, 1, {rows * ld}, {1}};
    activation_forward(Context{}, view, view, activation);
  }
  store(data, values, ld, begin, rows, first, count, patches);
}

template <class T>
void Output<T>::activate(std::int64_t begin, std::int64_t rows, std::int64_t first, std::int64_t count) const {
  if (activation == Activation::none) return;
  // Whole pixels are one run.
  const std::int64_t runs = count == channels ? 1 : rows;
  for (std::int64_t run = 0; run < runs; ++run) {
    const std::int64_t offset = (begin + run) * channels + first;
    Array to{static_cast<T*>(data) + offset, dtype, 1, {rows / runs * count}, {1}}, from = to;
    if (pre_activation) from.data = static_cast<T*>(pre_activation) + offset;
    activation_forward(Context{}, to, from, activation);
  }
}

#define IMGREC_INSTANTIATE(T) \
  template struct Patches<T>; \
  template struct Source<T>;  \
  template struct Output<T>;
IMGREC_INSTANTIATE(float)
IMGREC_INSTANTIATE(double)
#undef IMGREC_INSTANTIATE

}  // namespace imgrec::cpu
