#include "ops/softmax.h"

#include <algorithm>
#include <limits>

#include "cpu/parallel.h"
#include "cpu/vector_io.h"
#include "cpu/vector_math.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t grain = 1 << 14;  // elements a task

/// exp twice where it could be stored once: what is stored in 16 bits would have lost its digits before the division.
template <class S>
void forward_row(S* y, const S* x, std::int64_t length, Softmax kind) {
  using T = Compute<S>;
  const auto none = broadcast(-std::numeric_limits<T>::infinity());
  Vector<T> greatest_parts = none, total_parts{};
  for_vectors<S>(0, length, [&](std::int64_t i, int count) {
    greatest_parts = maximum(greatest_parts, select_first<T>(count, load_wide(x + i, count), none));
  });
  const T greatest = horizontal_max<T>(greatest_parts);
  for_vectors<S>(0, length, [&](std::int64_t i, int count) {
    total_parts += select_first<T>(count, exp(load_wide(x + i, count) - greatest), Vector<T>{});
  });
  const T total = horizontal_sum<T>(total_parts);
  const T inverse = T(1) / total, logarithm = log(broadcast(total))[0];
  for_vectors<S>(0, length, [&](std::int64_t i, int count) {
    const Vector<T> shifted = load_wide(x + i, count) - greatest;
    store_narrow(y + i, kind == Softmax::plain ? exp(shifted) * inverse : shifted - logarithm, count);
  });
}

template <class S>
void backward_row(S* dx, const S* dy, const S* y, std::int64_t length, Softmax kind) {
  using T = Compute<S>;
  Vector<T> parts{};
  for_vectors<S>(0, length, [&](std::int64_t i, int count) {  // past the end dy is 0
    const Vector<T> gradient = load_wide(dy + i, count);
    parts += kind == Softmax::plain ? gradient * load_wide(y + i, count) : gradient;
  });
  const T sum = horizontal_sum<T>(parts);
  for_vectors<S>(0, length, [&](std::int64_t i, int count) {
    const Vector<T> gradient = load_wide(dy + i, count), result = load_wide(y + i, count);
    store_narrow(dx + i, kind == Softmax::plain ? result * (gradient - sum) : gradient - exp(result) * sum, count);
  });
}

/// Calls body(offset of the row) for every row of an array.
template <class Body>
void for_rows(const Context& context, const Array& array, Body&& body) {
  const std::int64_t length = array.shape[array.ndim - 1];
  if (array.size() == 0) return;
  parallel_range(context, array.size() / length, std::max<std::int64_t>(1, grain / length),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t row = begin; row < end; ++row) body(row * length, length);
                 });
}

}  // namespace
}  // namespace cpu

void softmax_forward(const Context& context, const Array& y, const Array& x, Softmax kind) {
  cpu::for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    cpu::for_rows(context, x, [&](std::int64_t row, std::int64_t length) {
      cpu::forward_row(y.as<S>() + row, x.as<const S>() + row, length, kind);
    });
  });
}

void softmax_backward(const Context& context, const Array& dx, const Array& dy, const Array& y, Softmax kind) {
  cpu::for_floating(y.dtype, [&](auto tag) {
    using S = decltype(tag);
    cpu::for_rows(context, y, [&](std::int64_t row, std::int64_t length) {
      cpu::backward_row(dx.as<S>() + row, dy.as<const S>() + row, y.as<const S>() + row, length, kind);
    });
  });
}

}  // namespace imgrec
