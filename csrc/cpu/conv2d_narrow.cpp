// Products with few columns, which would leave most of a vector idle.
//
// Forward, with few output channels, vectors run along the depth, and a sum's lanes are added at its end.
//
// The gradient of images with few channels has vectors along an output row:
//
//   z[kh, kw, c][j]  = sum over o of weight[o, kh, kw, c] dy[n, i, j, o]      a product with dy's row transposed
//   dx[n, h, w, c]  += z[kh, kw, c][j]    for h = i s_h - p_h + kh d_h, w = j s_w - p_w + kw d_w
//
// With stride s_w the columns w of one phase meet neighbouring j: a row of dx is kept as s_w C planes of every s_w-th
// column, so that all additions are those of whole vectors, and is interleaved when it is complete. A task owns some
// rows of dx. An element is a sum over the rows i, then kw, of sums over o: one order, whoever owns it.
#include "cpu/conv2d.h"

namespace imgrec::cpu {

namespace {

/// V columns.
template <class T, int V>
void depth_kernel(const T* const* pointers, int rows, std::int64_t taps, std::int64_t run, const T* weights,
                  const Sums<T>& sums) {
  const std::int64_t depth = taps * run;
  Vector<T> values[micro_rows][V] = {};
  const auto add = [&](std::int64_t c, int count) {
    Vector<T> columns[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) columns[v] = load_first(weights + v * depth + c, count);
#pragma GCC unroll 16
    for (int r = 0; r < micro_rows; ++r) {
      const Vector<T> row = load_first(pointers[r] + c, count);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) values[r][v] += row * columns[v];
    }
  };
  for (std::int64_t tap = 0; tap < taps; ++tap, pointers += micro_rows, weights += run) {
    std::int64_t c = 0;
    for (; c + lanes<T> <= run; c += lanes<T>) add(c, lanes<T>);
    if (c < run) add(c, static_cast<int>(run - c));
  }
#pragma GCC unroll 16
  for (int r = 0; r < micro_rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v)
      if (r < rows) sums.to[r * sums.ld + v] = sums.start[r * sums.start_ld + v] + horizontal_sum<T>(values[r][v]);
}

}  // namespace

template <class T>
void multiply_along_depth(const T* const* pointers, int rows, std::int64_t taps, std::int64_t run, const T* weights,
                          std::int64_t columns, const Sums<T>& sums) {
  for (std::int64_t c = 0; c < columns; c += 2)
    (columns - c > 1 ? depth_kernel<T, 2>
                     : depth_kernel<T, 1>)(pointers, rows, taps, run, weights + c * taps * run,
                                           {sums.to + c, sums.ld, sums.start + c, sums.start_ld, sums.last});
}

template <class T>
bool NarrowInputGradient<T>::serves(const Conv2dShape& shape) {
  // Every row of z has room for the largest shift on each side.
  constexpr std::int64_t largest_shift = 256;
  const std::int64_t reach = (shape.width.kernel - 1) * shape.width.dilation;
  return shape.groups == 1 && shape.in_channels <= lanes<T> / 2 &&
         std::max(reach, shape.width.padding_before) <= largest_shift;
}

namespace {

std::int64_t floor_divide(std::int64_t value, std::int64_t divisor) {
  return value >= 0 ? value / divisor : -((divisor - 1 - value) / divisor);
}

}  // namespace

template <class T>
NarrowInputGradient<T>::NarrowInputGradient(const Context& context, const Conv2dShape& shape, Workspace& workspace)
    : shape_(shape), columns_(round_up(shape.width.output(), micro_cols<T>)) {
  const Conv2dAxis &height = shape.height, &width = shape.width;
  const std::int64_t last = floor_divide((width.kernel - 1) * width.dilation - width.padding_before, width.stride);
  plane_ = round_up((width.input + width.stride - 1) / width.stride, lanes<T>);
  // Plane element m is met by z[m - shift]: for every shift there are zeros before and behind z's columns.
  before_ = std::max<std::int64_t>(0, last);
  const std::int64_t behind = floor_divide(width.padding_before + width.stride - 1, width.stride);
  z_size_ = std::max(before_ + columns_, before_ + plane_ + behind);
  const std::int64_t strips = std::clamp<std::int64_t>(16 / std::max<std::int64_t>(shape.batch, 1), 1,
                                                       std::max<std::int64_t>(1, height.input / (4 * height.kernel)));
  strip_rows_ = (height.input + strips - 1) / strips;
  panel_ = workspace.take<T>(context.threads * panel_size());
  z_ = workspace.take<T>(context.threads * z_rows() * z_size_);
  planes_ = workspace.take<T>(context.threads * planes_size());
}

/// z of the filter rows [first, last) for one row of dy.
template <class T>
void NarrowInputGradient<T>::multiply_row(const T* dy, const T* packed, std::int64_t first, std::int64_t last, T* panel,
                                          T* z) const {
  const std::int64_t depth = shape_.out_channels, row = shape_.width.kernel * shape_.in_channels;
  for (std::int64_t j = 0; j < columns_; j += micro_cols<T>) {
    const std::int64_t count = std::min<std::int64_t>(micro_cols<T>, shape_.width.output() - j);
    pack_transposed_columns(Context{}, panel, dy + j * depth, count, depth);
    for (std::int64_t d = first * row, rows; d < last * row; d += rows) {
      rows = std::min<std::int64_t>(micro_rows, last * row - d);
      const Sums<T> sums{z + d * z_size_ + before_ + j, z_size_, no_bias<T>, 0, lanes<T>};
      multiply_rows<T>(static_cast<int>(rows), count > lanes<T>, {0, 1, 0, depth}, {packed + d * depth, depth, 0},
                       panel, sums);
    }
  }
}

/// Adds the z of one filter row to the planes of the row of dx that it belongs to.
template <class T>
void NarrowInputGradient<T>::add_row(const T* z, T* planes) const {
  const Conv2dAxis& width = shape_.width;
  for (std::int64_t phase = 0; phase < phases(); ++phase)
    for (std::int64_t c = 0; c < shape_.in_channels; ++c, planes += plane_)
      for (std::int64_t m = 0; m < plane_; m += lanes<T>) {
        Vector<T> sum = load(planes + m);
        for (std::int64_t kw = 0; kw < width.kernel; ++kw) {
          const std::int64_t offset = kw * width.dilation - width.padding_before;
          const std::int64_t shift = floor_divide(offset, width.stride);
          if (offset - shift * width.stride != phase) continue;
          sum += load(z + (kw * shape_.in_channels + c) * z_size_ + before_ + m - shift);
        }
        store(planes + m, sum);
      }
}

template <class T>
void NarrowInputGradient<T>::write_row(const T* planes, T* line, const Array& dx, std::int64_t row) const {
  const std::int64_t channels = shape_.in_channels, stride = shape_.width.stride, width = shape_.width.input;
  for (std::int64_t phase = 0; phase < phases(); ++phase)
    for (std::int64_t c = 0; c < channels; ++c, planes += plane_)
      for (std::int64_t j = phase, m = 0; j < width; j += stride, ++m) line[j * channels + c] = planes[m];
  narrow_all(dx.data, dx.dtype, row * width * channels, line, width * channels);
}

template <class T>
void NarrowInputGradient<T>::run(const Context& context, const Array& dx, const Patches<T>& dy, const T* packed) const {
  const Conv2dAxis& height = shape_.height;
  const std::int64_t strips = (height.input + strip_rows_ - 1) / strip_rows_;
  const std::int64_t row_planes = phases() * shape_.in_channels * plane_;
  const std::int64_t filter_row = shape_.width.kernel * shape_.in_channels * z_size_;
  parallel_tasks(context, shape_.batch * strips, [&](std::int64_t task, int worker) {
    const std::int64_t image = task / strips, begin = task % strips * strip_rows_;
    const std::int64_t end = std::min(begin + strip_rows_, height.input);
    T* panel = panel_ + worker * panel_size();
    T* z = z_ + worker * z_rows() * z_size_;
    T* planes = planes_ + worker * planes_size();
    std::fill(z, z + z_rows() * z_size_, T(0));
    std::fill(planes, planes + (end - begin) * row_planes, T(0));
    for (std::int64_t i = 0; i < height.output(); ++i) {
      const std::int64_t top = i * height.stride - height.padding_before - begin;  // of filter row 0, in this strip
      std::int64_t first = 0, last = height.kernel;
      while (first < last && top + first * height.dilation < 0) ++first;
      while (first < last && top + (last - 1) * height.dilation >= end - begin) --last;
      if (first == last) continue;
      multiply_row(dy.row(image, i), packed, first, last, panel, z);
      for (std::int64_t kh = first; kh < last; ++kh)
        add_row(z + kh * filter_row, planes + (top + kh * height.dilation) * row_planes);
    }
    T* line = planes + strip_rows_ * row_planes;
    for (std::int64_t row = begin; row < end; ++row)
      write_row(planes + (row - begin) * row_planes, line, dx, image * height.input + row);
  });
}

template <class T>
void pack_narrow_weights(T* packed, const T* weight, const Conv2dShape& shape) {
  const std::int64_t rows = shape.taps();
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t o = 0; o < shape.out_channels; ++o) packed[row * shape.out_channels + o] = weight[o * rows + row];
}

template void multiply_along_depth(const float* const*, int, std::int64_t, std::int64_t, const float*, std::int64_t,
                                   const Sums<float>&);
template void multiply_along_depth(const double* const*, int, std::int64_t, std::int64_t, const double*, std::int64_t,
                                   const Sums<double>&);
template class NarrowInputGradient<float>;
template class NarrowInputGradient<double>;
template void pack_narrow_weights(float*, const float*, const Conv2dShape&);
template void pack_narrow_weights(double*, const double*, const Conv2dShape&);

}  // namespace imgrec::cpu
