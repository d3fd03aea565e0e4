// What every kernel's file includes first: CUDA for nvcc, the simulator for other compilers.
//
//   SHARED(float, tile, [16][68]);      a static shared array, aligned for any access
//   DYN_SHARED(float, memory);          the dynamic shared memory of the launch, aligned to 1024 bytes
//   LAUNCH((kernel<T>), context, {.blocks = .., .threads = ..}, arguments...);
//   ALLOW_SHARED((kernel<T>), bytes);   before a launch with more than 48 KB of dynamic shared memory; always the same
//                                       bytes, or a launch of another host thread finds its permission withdrawn
//
// What else kernels are asked for, so that every compiler and checker understands them: docs/kernels/writing.md.
#pragma once

#include <cstdint>

#include "ops/array.h"
#include "ops/error.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define SHARED(type, name, extents) __shared__ __align__(128) type name extents
#define DYN_SHARED(type, name)                                                    \
  extern __shared__ __align__(1024) unsigned char imgrec_dynamic_shared_memory[]; \
  type* const name = reinterpret_cast<type*>(imgrec_dynamic_shared_memory)
#else
#include "sim/simt.h"
#endif

namespace imgrec::cuda {

#ifdef __CUDACC__
/// Where a kernel calls, which only the simulator wants to know.
struct Site {
  __host__ __device__ static constexpr Site current() { return {}; }
};
#else
using sim::Site;
#endif

/// Goes into every loop that waits for memory to change. GPUs need no hint: the loops here are as short as their loads.
__device__ __forceinline__ void spin_hint([[maybe_unused]] const char* name = "a spin loop",
                                          [[maybe_unused]] Site site = Site::current()) {
#ifndef __CUDACC__
  sim::spin_hint(name, site);
#endif
}

/// The shape of a launch. Cooperative: all blocks run at once, so that they may wait for each other. Cluster: so many
/// consecutive blocks (along x) share their shared memory.
struct LaunchConfig {
  dim3 blocks, threads;
  std::int64_t shared_bytes = 0;  // dynamic
  bool cooperative = false;
  unsigned cluster = 1;
};

#ifdef __CUDACC__
inline void check(cudaError_t error, const char* kernel) {
  if (error != cudaSuccess) throw KernelError(std::string(kernel) + ": " + cudaGetErrorString(error));
}

template <class... Parameters, class... Arguments>
void launch(const char* kernel, void (*function)(Parameters...), const Context& context, const LaunchConfig& config,
            Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeCooperative;
  attributes[0].val.cooperative = config.cooperative;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {config.cluster, 1, 1};
  cudaLaunchConfig_t all{};
  all.gridDim = config.blocks;
  all.blockDim = config.threads;
  all.dynamicSmemBytes = static_cast<std::size_t>(config.shared_bytes);
  all.stream = static_cast<cudaStream_t>(context.stream);
  all.attrs = attributes;
  all.numAttrs = config.cluster > 1 ? 2 : 1;
  check(cudaLaunchKernelEx(&all, function, static_cast<Parameters>(arguments)...), kernel);
}

#define ALLOW_SHARED(kernel, bytes) \
  ::imgrec::cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (bytes)), #kernel)
#else
template <class... Parameters, class... Arguments>
void launch(const char* kernel, void (*function)(Parameters...), const Context& context, const LaunchConfig& config,
            Arguments&&... arguments) {
  sim::launch(kernel, function, context, config, std::forward<Arguments>(arguments)...);
}

#define ALLOW_SHARED(kernel, bytes) ::imgrec::sim::allow_shared(reinterpret_cast<const void*>(kernel), bytes)
#endif

#define LAUNCH(kernel, ...) ::imgrec::cuda::launch(#kernel, kernel, __VA_ARGS__)

}  // namespace imgrec::cuda
