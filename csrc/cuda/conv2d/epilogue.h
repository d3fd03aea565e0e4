// What happens to the sums of a convolution on their way to memory.
#pragma once

#include "cuda/activation.h"
#include "cuda/conv2d/kernels.h"

namespace imgrec::cuda {

/// y = act(sum + bias) for output pixel m and channel first_channel + n; and what act was applied to, where wanted.
template <class T>
struct ForwardEpilogue {
  T *y, *pre_activation;  // pre_activation may be null
  const T* bias;          // may be null
  std::int64_t channels;  // of a pixel of y
  Activation activation;

  __device__ __forceinline__ void operator()(std::int64_t m, std::int64_t channel, int count,
                                             const Compute<T> (&sums)[4]) const {
    Compute<T> values[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = sums[i] + (bias && i < count ? widen(bias[channel + i]) : Compute<T>(0));
    if (pre_activation) store_run(pre_activation + m * channels + channel, count, values);
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = activate(values[i], activation);
    store_run(y + m * channels + channel, count, values);
  }
};

template <class T>
ForwardEpilogue<T> forward_epilogue(const Conv2dForward& arrays, const Conv2dShape& shape) {
  return {arrays.y.as<T>(), arrays.pre_activation.as<T>(), arrays.bias.as<const T>(), shape.out_channels,
          arrays.activation};
}

}  // namespace imgrec::cuda
