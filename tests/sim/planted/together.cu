#include "planted.h"

namespace imgrec::cuda {

template <bool Right>
__global__ void two_barriers(float* out) {
  if (Right || threadIdx.x < 32)
    __syncthreads();  // OTHER divergent_barrier
  else
    __syncthreads();  // HERE divergent_barrier
  out[threadIdx.x] = 1.0f;
}

template <bool Right>
__global__ void shuffle_masks(float* out) {
  const unsigned mask = Right ? 0xFFFFFFFFu : threadIdx.x < 16 ? 0x0001FFFFu : 0xFFFF0000u;
  out[threadIdx.x] = __shfl_xor_sync(mask, 1.0f, 1);  // HERE mismatched_masks
}

template <bool Right>
__global__ void large_tile(float* out) {
  SHARED(float, tile, [(Right ? 40 : 49) * 256]);  // HERE shared_over_limit
  tile[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

template <bool Right>
__global__ void half_a_barrier(float* out) {
  SHARED(float, tile, [64]);
  tile[threadIdx.x] = 1.0f;
  if (Right || threadIdx.x < 32)
    __syncthreads();  // OTHER deadlock
  else
    while (load_acquire(reinterpret_cast<unsigned*>(out)) == 0) spin_hint();  // HERE deadlock
  out[threadIdx.x] = tile[threadIdx.x ^ 32];
}

// What costs time on a GPU, and how much.

template <int Stride>
__global__ void columns(float* out) {
  SHARED(float, tile, [32][Stride]);
  for (int row = 0; row < 32; ++row) tile[row][threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x][3];  // HERE bank_conflicts bank_conflicts_corrected
}

template <int Stride>
__global__ void strided(float* out) {
  out[threadIdx.x * Stride] = 1.0f;  // HERE uncoalesced uncoalesced_corrected
}

}  // namespace imgrec::cuda

using namespace imgrec;
using namespace imgrec::cuda;
using imgrec::planted::Operation;

#define RUN(name, size, kernel)                                               \
  CASE(name) {                                                                \
    Operation op;                                                             \
    LAUNCH((kernel), op.context, (LaunchConfig{.threads = size}), op.output); \
  }
#define PAIR(name, kernel, size) RUN(name, size, kernel<false>) RUN(name##_corrected, size, kernel<true>)

PAIR(divergent_barrier, two_barriers, 64)
PAIR(mismatched_masks, shuffle_masks, 32)
PAIR(shared_over_limit, large_tile, 32)
PAIR(deadlock, half_a_barrier, 64)
RUN(bank_conflicts, 32, columns<32>)
RUN(bank_conflicts_corrected, 32, columns<33>)
RUN(uncoalesced, 32, strided<8>)
RUN(uncoalesced_corrected, 32, strided<1>)
