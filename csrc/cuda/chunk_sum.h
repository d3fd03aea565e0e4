// Sums over all elements of an array, in float64 and in an order that the size alone decides: a block adds up a chunk
// of 8192 elements, then one block adds up the chunks.
#pragma once

#include "cuda/arch/pack.h"
#include "cuda/arch/warp.h"

namespace imgrec::cuda {

constexpr int chunk_threads = 256;
constexpr std::int64_t chunk_elements = 8192;

inline std::int64_t chunk_count(std::int64_t size) { return (size + chunk_elements - 1) / chunk_elements; }

/// One block for each chunk.
inline LaunchConfig chunk_config(std::int64_t size) {
  return {.blocks = static_cast<unsigned>(chunk_count(size)), .threads = chunk_threads};
}

/// Calls body(i, count) for runs of `width` elements, which cover the chunk that begins there over the block's threads.
template <int width, class Body>
__device__ __forceinline__ void for_chunk_runs(std::int64_t begin, std::int64_t size, Body&& body) {
  const std::int64_t end = begin + chunk_elements < size ? begin + chunk_elements : size;
  for (std::int64_t i = begin + threadIdx.x * width; i < end; i += chunk_threads * width)
    body(i, static_cast<int>(end - i < width ? end - i : width));
}

namespace {

/// out = the sum of the chunks' sums, divided; one block.
template <class T>
__global__ void __launch_bounds__(chunk_threads)
    join_chunks_kernel(T* out, const double* sums, std::int64_t chunks, double divisor) {
  double sum = 0;
  for (std::int64_t chunk = threadIdx.x; chunk < chunks; chunk += chunk_threads) sum += sums[chunk];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = static_cast<T>(sum / divisor);
}

}  // namespace

template <class T>
void join_chunks(const Context& context, T* out, const double* sums, std::int64_t chunks, double divisor) {
  LAUNCH((join_chunks_kernel<T>), context, {.blocks = 1, .threads = chunk_threads}, out, sums, chunks, divisor);
}

}  // namespace imgrec::cuda
