// Products whose depth is cut into parts, because they have fewer tiles than the GPU has multiprocessors: each part's
// sums go to scratch memory, partial (splits, size), and a second kernel adds them in the order of the parts.
#pragma once

#include "cuda/arch/pack.h"

namespace imgrec::cuda {

/// How a depth is cut. Shapes alone decide, so that results are the same on every GPU.
struct DepthSplit {
  std::int64_t parts, part_depth;  // the last part may be shorter

  /// Two blocks for each multiprocessor of a large GPU, but parts of 512 at least: writing and adding sums costs too.
  static DepthSplit of(std::int64_t tiles, std::int64_t depth) {
    constexpr std::int64_t blocks_wanted = 256, least = 512, multiple = 32;
    const auto divide_up = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
    const std::int64_t wanted = divide_up(blocks_wanted, tiles < 1 ? 1 : tiles);
    const std::int64_t shortest = divide_up(depth, wanted) < least ? least : divide_up(depth, wanted);
    const std::int64_t part_depth = divide_up(shortest, multiple) * multiple;
    return {depth <= part_depth ? 1 : divide_up(depth, part_depth), part_depth};
  }
};

constexpr int sum_threads = 256;

template <class T, class Number>
__global__ void __launch_bounds__(sum_threads)
    sum_parts_kernel(T* sums, const Number* partial, std::int64_t size, std::int64_t parts) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = thread; i < size; i += threads) {
    Number sum = 0;
    for (std::int64_t part = 0; part < parts; ++part) sum += partial[part * size + i];
    sums[i] = narrow<T>(sum);
  }
}

/// sums (size) = partial (parts, size) summed over parts.
template <class T, class Number>
void sum_parts(const Context& context, T* sums, const Number* partial, std::int64_t size, std::int64_t parts) {
  LAUNCH((sum_parts_kernel<T, Number>), context, elementwise_config<Number>(context, size, sum_threads), sums, partial,
         size, parts);
}

}  // namespace imgrec::cuda
