// Element-wise activations and their gradients.
//
//   y_i = f(x_i)      dx_i = dy_i f'(x_i)      all arrays contiguous, of one size and dtype
//
// A thread computes packs of 16 bytes, one grid width apart: every access of a warp is whole 128-byte lines. Bound by
// memory: forward moves 2, backward 3 elements for each element. No shared memory.
//
// At most 48 registers on sm_80 (62 on sm_90a), no spills; measured share of the peer: not run on a GPU.
#include "ops/activation.h"

#include "cuda/activation.h"
#include "cuda/arch/numbers.h"
#include "cuda/arch/pack.h"

namespace imgrec {
namespace cuda {
namespace {

constexpr int block_threads = 256;

template <class T>
__global__ void __launch_bounds__(block_threads)
    activation_forward_kernel(T* y, const T* x, std::int64_t size, Activation activation) {
  for_each_pack<T>(size, aligned_for_packs(y, x), [&](std::int64_t i, auto width) {
    auto pack = load_pack<T, width>(x + i);
    for (T& value : pack.values) value = narrow<T>(activate(widen(value), activation));
    store_pack(y + i, pack);
  });
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    activation_backward_kernel(T* dx, const T* dy, const T* saved, std::int64_t size, Activation activation) {
  for_each_pack<T>(size, aligned_for_packs(dx, dy, saved), [&](std::int64_t i, auto width) {
    auto pack = load_pack<T, width>(dy + i);
    const auto other = load_pack<T, width>(saved + i);
    for (int k = 0; k < width; ++k)
      pack.values[k] = narrow<T>(activate_backward(widen(pack.values[k]), widen(other.values[k]), activation));
    store_pack(dx + i, pack);
  });
}

}  // namespace
}  // namespace cuda

void activation_forward(const Context& context, const Array& y, const Array& x, Activation activation) {
  cuda::for_floating(x.dtype, [&](auto type) {
    using T = decltype(type);
    LAUNCH((cuda::activation_forward_kernel<T>), context,
           cuda::elementwise_config<T>(context, x.size(), cuda::block_threads), y.as<T>(), x.as<const T>(), x.size(),
           activation);
  });
}

void activation_backward(const Context& context, const Array& dx, const Array& dy, const Array& saved,
                         Activation activation) {
  cuda::for_floating(dy.dtype, [&](auto type) {
    using T = decltype(type);
    LAUNCH((cuda::activation_backward_kernel<T>), context,
           cuda::elementwise_config<T>(context, dy.size(), cuda::block_threads), dx.as<T>(), dy.as<const T>(),
           saved.as<const T>(), dy.size(), activation);
  });
}

}  // namespace imgrec
