#include "ops/softmax.h"

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/row_reduce.h"
#include "cpu/vector_math.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t grain = 1 << 14;  // elements a task

/// y = exp(x - greatest) and its sum, then y / sum. What is stored in 16 bits would lose its digits before the
/// division: there exp is computed twice.
template <class S>
void softmax_row(S* y, const S* x, std::int64_t length) {
  using T = Compute<S>;
  constexpr bool keeps_digits = sizeof(S) == sizeof(T);
  const T greatest = row_max(x, length);
  const T total = row_sum<S>(length, [&](std::int64_t i, auto count) {
    const Vector<T> power = exp(load_wide(x + i, count) - greatest);
    if constexpr (keeps_digits) store_narrow(y + i, power, count);
    return power;
  });
  const T inverse = T(1) / total;
  for_vectors<S>(0, length, [&](std::int64_t i, auto count) {
    const Vector<T> power = keeps_digits ? load_wide(y + i, count) : exp(load_wide(x + i, count) - greatest);
    store_narrow(y + i, power * inverse, count);
  });
}

template <class S>
void log_softmax_row(S* y, const S* x, std::int64_t length) {
  using T = Compute<S>;
  const T greatest = row_max(x, length);
  const T total =
      row_sum<S>(length, [&](std::int64_t i, auto count) { return exp(load_wide(x + i, count) - greatest); });
  const T logarithm = log(broadcast(total))[0];
  for_vectors<S>(0, length, [&](std::int64_t i, auto count) {
    store_narrow(y + i, load_wide(x + i, count) - greatest - logarithm, count);
  });
}

template <class S>
void softmax_row_backward(S* dx, const S* dy, const S* y, std::int64_t length) {
  const auto sum = row_sum<S>(
      length, [&](std::int64_t i, auto count) { return load_wide(dy + i, count) * load_wide(y + i, count); });
  for_vectors<S>(0, length, [&](std::int64_t i, auto count) {
    store_narrow(dx + i, load_wide(y + i, count) * (load_wide(dy + i, count) - sum), count);
  });
}

template <class S>
void log_softmax_row_backward(S* dx, const S* dy, const S* y, std::int64_t length) {
  const auto sum = row_sum<S>(length, [&](std::int64_t i, auto count) { return load_wide(dy + i, count); });
  for_vectors<S>(0, length, [&](std::int64_t i, auto count) {
    store_narrow(dx + i, load_wide(dy + i, count) - exp(load_wide(y + i, count)) * sum, count);
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
      const auto forward = kind == Softmax::plain ? cpu::softmax_row<S> : cpu::log_softmax_row<S>;
      forward(y.as<S>() + row, x.as<const S>() + row, length);
    });
  });
}

void softmax_backward(const Context& context, const Array& dx, const Array& dy, const Array& y, Softmax kind) {
  cpu::for_floating(y.dtype, [&](auto tag) {
    using S = decltype(tag);
    cpu::for_rows(context, y, [&](std::int64_t row, std::int64_t length) {
      const auto backward = kind == Softmax::plain ? cpu::softmax_row_backward<S> : cpu::log_softmax_row_backward<S>;
      backward(dx.as<S>() + row, dy.as<const S>() + row, y.as<const S>() + row, length);
    });
  });
}

}  // namespace imgrec
