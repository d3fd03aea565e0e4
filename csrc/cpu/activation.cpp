#include "cpu/activation.h"

#include "cpu/parallel.h"
#include "cpu/vector_io.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t grain = 1 << 14;

}  // namespace
}  // namespace cpu

void activation_forward(const Context& context, const Array& y, const Array& x, Activation activation) {
  cpu::for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    S* to = y.as<S>();
    const S* from = x.as<const S>();
    cpu::for_activation(activation, [&](auto kind) {
      cpu::parallel_range(context, x.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
        cpu::for_vectors<S>(begin, end, [&](std::int64_t i, auto count) {
          cpu::store_narrow(to + i, cpu::activate<T>(cpu::load_wide(from + i, count), kind()), count);
        });
      });
    });
  });
}

void activation_backward(const Context& context, const Array& dx, const Array& dy, const Array& saved,
                         Activation activation) {
  cpu::for_floating(dx.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    S* to = dx.as<S>();
    const S *from = dy.as<const S>(), *kept = saved.as<const S>();
    cpu::for_activation(activation, [&](auto kind) {
      cpu::parallel_range(context, dx.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
        cpu::for_vectors<S>(begin, end, [&](std::int64_t i, auto count) {
          const auto dy_part = cpu::load_wide(from + i, count), saved_part = cpu::load_wide(kept + i, count);
          cpu::store_narrow(to + i, cpu::activate_backward<T>(dy_part, saved_part, kind()), count);
        });
      });
    });
  });
}

}  // namespace imgrec
