// Addresses as PTX wants them: shared memory's have 32 bits and a space of their own.
#pragma once

#include "cuda/arch/cuda.h"

namespace imgrec::cuda {

#ifdef __CUDACC__
__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ std::uint64_t global_address(const void* pointer) {
  return static_cast<std::uint64_t>(__cvta_generic_to_global(pointer));
}
#endif

}  // namespace imgrec::cuda
