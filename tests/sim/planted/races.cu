#include "planted.h"

namespace imgrec::cuda {

constexpr dim3 one_warp = 32, two_warps = 64;

/// Each thread reads what its neighbour in the block wrote.
template <bool Right>
__global__ void block_neighbours(float* out) {
  SHARED(float, tile, [64]);
  tile[threadIdx.x] = 1.0f;  // OTHER missing_syncthreads
  if (Right) __syncthreads();
  out[threadIdx.x] = tile[(threadIdx.x + 63) % 64];  // HERE missing_syncthreads
}

/// The tile is written anew while others may still read it.
template <bool Right>
__global__ void reused_tile(float* out) {
  SHARED(float, tile, [64]);
  for (int i = 0; i < 2; ++i) {
    tile[threadIdx.x] = static_cast<float>(i);  // HERE missing_second_syncthreads
    __syncthreads();
    out[threadIdx.x] = tile[(threadIdx.x + 32) % 64];  // OTHER missing_second_syncthreads
    if (Right) __syncthreads();
  }
}

/// Shuffles do not order what lanes do to memory.
template <bool Right>
__global__ void warp_neighbours(float* out) {
  SHARED(float, tile, [32]);
  tile[threadIdx.x] = 1.0f;  // OTHER missing_syncwarp
  const float sum = __shfl_xor_sync(0xFFFFFFFFu, 1.0f, 1);
  if (Right) __syncwarp();
  out[threadIdx.x] = tile[threadIdx.x ^ 1] + sum;  // HERE missing_syncwarp
}

/// A warp's barrier does not order another warp.
template <bool Right>
__global__ void across_warps(float* out) {
  SHARED(float, tile, [64]);
  tile[threadIdx.x] = 1.0f;  // OTHER syncwarp_for_block
  if (Right)
    __syncthreads();
  else
    __syncwarp();
  out[threadIdx.x] = tile[threadIdx.x ^ 32];  // HERE syncwarp_for_block
}

template <bool Right>
__global__ void half_words(std::uint16_t* out) {
  SHARED(std::uint16_t, tile, [64]);
  tile[threadIdx.x] = 1;  // OTHER race_in_half_a_word
  if (Right) __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x ^ 2];  // HERE race_in_half_a_word
}

template <bool Right>
__global__ void copied_tile(float* out, const float* in) {
  SHARED(float, tile, [128]);
  copy_async<16>(tile + 4 * threadIdx.x, in + 4 * threadIdx.x);  // OTHER missing_copy_wait
  copy_async_commit();
  if (Right) copy_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];  // HERE missing_copy_wait
}

/// Waiting is only for one's own copies: others' need a barrier behind it.
template <bool Right>
__global__ void others_copies(float* out, const float* in) {
  SHARED(float, tile, [128]);
  copy_async<16>(tile + 4 * threadIdx.x, in + 4 * threadIdx.x);  // OTHER missing_barrier_after_copy
  copy_async_commit();
  copy_async_wait<0>();
  if (Right) __syncthreads();
  out[threadIdx.x] = tile[127 - threadIdx.x];  // HERE missing_barrier_after_copy
}

/// An mbarrier tells when a bulk copy has landed; nothing else does.
template <bool Right>
__global__ void bulk_copied_tile(float* out, const float* in) {
  SHARED(MBarrier, full, [1]);
  SHARED(float, tile, [128]);
  if (threadIdx.x == 0) mbarrier_init(full, 1);
  mbarrier_fence_init();
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(full, sizeof(tile));
    copy_bulk(tile, in, sizeof(tile), full);  // OTHER missing_mbarrier_wait
  }
  if (Right)
    mbarrier_wait(full, 0);
  else
    __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];  // HERE missing_mbarrier_wait
}

template <bool Right>
__global__ void cluster_neighbours(float* out) {
  SHARED(float, tile, [32]);
  cluster_sync();
  tile[threadIdx.x] = 1.0f;  // OTHER missing_cluster_sync
  if (Right)
    cluster_sync();
  else
    __syncthreads();
  const float* const theirs = map_shared_rank(&tile[threadIdx.x], cluster_rank() ^ 1);
  out[32 * blockIdx.x + threadIdx.x] = *theirs;  // HERE missing_cluster_sync
  cluster_sync();
}

/// Half of the block meets at a named barrier; the other half must not rely on it.
template <bool Right>
__global__ void named_half(float* out) {
  SHARED(float, tile, [128]);
  tile[threadIdx.x] = 1.0f;  // OTHER wrong_named_barrier
  named_barrier_sync(Right ? 1 : 1 + threadIdx.x / 64, Right ? 128 : 64);
  out[threadIdx.x] = tile[threadIdx.x ^ 64];  // HERE wrong_named_barrier
}

template <bool Right>
__global__ void one_word(float* out) {
  if (threadIdx.x == 0) out[Right ? blockIdx.x : 0] = 1.0f;  // HERE blocks_write_one_word OTHER blocks_write_one_word
}

template <bool Right>
__global__ void global_neighbours(float* out) {
  out[threadIdx.x] = 1.0f;  // OTHER global_race_in_block
  if (Right) __syncthreads();
  out[64 + threadIdx.x] = out[threadIdx.x ^ 1];  // HERE global_race_in_block
}

/// The block that comes last adds what the others left.
template <bool Right>
__global__ void last_block(float* out, unsigned* ticket) {
  out[blockIdx.x] = 1.0f;  // OTHER ticket_without_release
  const unsigned before = Right ? atomic_add_release(ticket, 1) : __atomic_fetch_add(ticket, 1, __ATOMIC_RELAXED);
  if (before != 3) return;
  if (Right) load_acquire(ticket);
  out[4] = out[0] + out[1];  // HERE ticket_without_release
}

template <bool Right>
__global__ void grid_neighbours(float* out, unsigned* state) {
  if (threadIdx.x == 0) out[blockIdx.x] = 1.0f;  // OTHER missing_grid_barrier
  if (Right) grid_barrier(state);
  if (threadIdx.x == 1) out[16 + blockIdx.x] = out[blockIdx.x ^ 1];  // HERE missing_grid_barrier
}

}  // namespace imgrec::cuda

using namespace imgrec;
using namespace imgrec::cuda;
using imgrec::planted::Operation;

#define PAIR(name, kernel, config, ...)                                      \
  CASE(name) {                                                               \
    Operation op;                                                            \
    LAUNCH((kernel<false>), op.context, (LaunchConfig config), __VA_ARGS__); \
  }                                                                          \
  CASE(name##_corrected) {                                                   \
    Operation op;                                                            \
    LAUNCH((kernel<true>), op.context, (LaunchConfig config), __VA_ARGS__);  \
  }

#define BLOCKS(number, size) {.blocks = number, .threads = size}
#define CLUSTER(number, size) {.blocks = number, .threads = size, .cluster = number}
#define TOGETHER(number, size) {.blocks = number, .threads = size, .cooperative = true}

PAIR(missing_syncthreads, block_neighbours, BLOCKS(1, two_warps), op.output)
PAIR(missing_second_syncthreads, reused_tile, BLOCKS(1, two_warps), op.output)
PAIR(missing_syncwarp, warp_neighbours, BLOCKS(1, one_warp), op.output)
PAIR(syncwarp_for_block, across_warps, BLOCKS(1, two_warps), op.output)
PAIR(race_in_half_a_word, half_words, BLOCKS(1, two_warps), reinterpret_cast<std::uint16_t*>(op.output))
PAIR(missing_copy_wait, copied_tile, BLOCKS(1, one_warp), op.output, op.input)
PAIR(missing_barrier_after_copy, others_copies, BLOCKS(1, one_warp), op.output, op.input)
PAIR(missing_mbarrier_wait, bulk_copied_tile, BLOCKS(1, one_warp), op.output, op.input)
PAIR(missing_cluster_sync, cluster_neighbours, CLUSTER(2, one_warp), op.output)
PAIR(wrong_named_barrier, named_half, BLOCKS(1, 128), op.output)
PAIR(blocks_write_one_word, one_word, BLOCKS(2, one_warp), op.output)
PAIR(global_race_in_block, global_neighbours, BLOCKS(1, two_warps), op.output)
PAIR(ticket_without_release, last_block, BLOCKS(4, 1), op.output, reinterpret_cast<unsigned*>(op.output + 64))
PAIR(missing_grid_barrier, grid_neighbours, TOGETHER(2, one_warp), op.output,
     reinterpret_cast<unsigned*>(op.output + 64))
