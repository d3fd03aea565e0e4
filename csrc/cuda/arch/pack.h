// Runs of elements that are read and written with accesses of 16 bytes.
#pragma once

#include <algorithm>

#include "cuda/arch/numbers.h"

namespace imgrec::cuda {

/// Longer runs, as of float beside a pack of 16-bit numbers, are several accesses.
template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
  T values[N];
};

template <class T>
constexpr int pack_width = 16 / static_cast<int>(sizeof(T));

template <class T, int N>
__device__ __forceinline__ Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <class T, int N>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

/// The first `count` elements of a pack: in one access where all of it is there and aligned. Which thread has which
/// element does not depend on alignment then, and neither does any sum.
template <class T, int N>
__device__ __forceinline__ Pack<T, N> load_run(const T* from, int count, bool aligned) {
  if (aligned && count == N) return load_pack<T, N>(from);
  Pack<T, N> pack{};
#pragma unroll
  for (int k = 0; k < N; ++k)
    if (k < count) pack.values[k] = from[k];
  return pack;
}

template <class T, int N>
__device__ __forceinline__ void store_run(T* to, const Pack<T, N>& pack, int count, bool aligned) {
  if (aligned && count == N) return store_pack(to, pack);
#pragma unroll
  for (int k = 0; k < N; ++k)
    if (k < count) to[k] = pack.values[k];
}

/// A number that is known to the compiler, as an argument.
template <int N>
struct Constant {
  __host__ __device__ constexpr operator int() const { return N; }
};

/// Whether packs can be read from and written to arrays that start there.
template <class... Pointers>
__host__ __device__ inline bool aligned_for_packs(Pointers... pointers) {
  return ((reinterpret_cast<std::uintptr_t>(pointers) | ...) % 16) == 0;
}

/// Calls body(first, width) for runs that cover [0, size) once, over all threads of the grid: whole packs where the
/// arrays are aligned for them, and single elements.
template <class T, class Body>
__device__ __forceinline__ void for_each_pack(std::int64_t size, bool aligned, Body&& body) {
  constexpr int width = pack_width<T>;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const std::int64_t packed = aligned ? size / width * width : 0;
  for (std::int64_t i = thread * width; i < packed; i += threads * width) body(i, Constant<width>{});
  for (std::int64_t i = packed + thread; i < size; i += threads) body(i, Constant<1>{});
}

/// Enough blocks to fill the machine, and no more than there is work for: `tasks`, each for one block, which takes more
/// of them where there are not so many blocks.
inline LaunchConfig filling_config(const Context& context, std::int64_t tasks, int block_threads) {
  const std::int64_t most = static_cast<std::int64_t>(context.sm_count) * (2048 / block_threads);
  return {.blocks = static_cast<unsigned>(std::clamp<std::int64_t>(tasks, 1, most)),
          .threads = static_cast<unsigned>(block_threads)};
}

/// The same for element-wise kernels whose threads take a pack, or another number of elements, at a time.
template <class T>
LaunchConfig elementwise_config(const Context& context, std::int64_t size, int block_threads,
                                int elements = pack_width<T>) {
  const std::int64_t each = static_cast<std::int64_t>(block_threads) * elements;
  return filling_config(context, (size + each - 1) / each, block_threads);
}

}  // namespace imgrec::cuda
