// What a running kernel asks of the simulator: who am I, wait for others, where is shared memory.
//
// Each CUDA thread is a fiber; one operating-system thread runs the fibers of a block in turns, each until it waits
// for others. A warp operation is carried out by the last lane to arrive, for all lanes at once: so there is one
// mechanism for shuffles, votes, matrix fragments and tensor-core products, and lanes that disagree are noticed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

#include "sim/types.h"

// Rewritten at each switch of fibers. const, so that compilers may keep what they read; in the static TLS segment,
// which is small, so nothing else may be put there. Plain structures without constructors: then they count as
// constants.
extern __thread const uint3 threadIdx __attribute__((tls_model("initial-exec")));
extern __thread const uint3 blockIdx __attribute__((tls_model("initial-exec")));
extern __thread const uint3 blockDim __attribute__((tls_model("initial-exec")));
extern __thread const uint3 gridDim __attribute__((tls_model("initial-exec")));

namespace imgrec::sim {

/// A line of a kernel, for reports. As a default argument it is the caller's line.
using Site = std::source_location;

constexpr int warp_lanes = 32;
constexpr std::uint32_t all_lanes = 0xFFFFFFFFu;

/// Ends the launch with an error that names the kernel, block and thread. Callable in kernels: nothing is thrown here.
[[noreturn]] void fail(const char* what, Site site);

/// bar.sync: waits until `threads` threads of the block, or all that still run where it is 0, have come to barrier
/// `id`.
void barrier_sync(const char* name, int id, int threads, Site site);

/// bar.arrive: counts for the barrier without waiting.
void barrier_arrive(const char* name, int id, int threads, Site site);

/// barrier.cluster: says that this thread has come; waits until all threads of the cluster's blocks have.
void cluster_arrive(Site site);
void cluster_wait(Site site);

/// Carries out a warp operation for all lanes at once. arguments[lane] is what that lane handed in, null for lanes
/// outside of `mask`. Null where lanes only wait for each other: that alone also orders what they do to memory.
using WarpOperation = void (*)(void* const* arguments, std::uint32_t mask);

/// Waits until all lanes of `mask` that still run have come; the last one runs the operation. `aligned`: all lanes of
/// the warp must come to the same line, as PTX asks for its .aligned instructions.
void warp_collective(const char* name, WarpOperation operation, std::uint32_t mask, void* argument, bool aligned,
                     Site site);

/// Lets others run where a thread waits for memory to change. `name` is what a deadlock report says.
void spin_hint(const char* name = "a spin loop", Site site = Site::current());

/// Says that memory has changed that others may be waiting for in a spin loop.
void progress();

/// This thread's lane in its warp.
int lane();

/// The lanes of this thread's warp that still run.
std::uint32_t running_lanes();

/// The rank and number of blocks in this block's cluster.
unsigned cluster_rank();
unsigned cluster_blocks();

/// The block's memory for a static array; `key` is the same for all threads and different for each array.
void* shared_array(const void* key, const char* name, std::size_t bytes, Site site);
void* dynamic_shared();

/// 32-bit shared-memory addresses: offsets in an arena that holds the shared memory of all blocks that run together.
std::uint32_t shared_address(const void* pointer);
void* shared_pointer(std::uint32_t address);

/// Fails where a pointer is not into shared memory or not a multiple of `alignment`.
void require_shared(const char* name, const void* pointer, std::uint32_t alignment, Site site);

/// 16 bytes from and to shared memory, by an instruction at `site`.
void load_matrix_row(const char* name, void* to, const void* shared, Site site);
void store_matrix_row(const char* name, void* shared, const void* from, Site site);

/// mapa: the same place in the shared memory of another block of the cluster.
void* map_shared_rank(const void* pointer, unsigned rank, Site site);

template <class T, class Key>
T& shared(const char* name, Site site = Site::current()) {
  static const char key = 0;
  return *static_cast<T*>(shared_array(&key, name, sizeof(T), site));
}

}  // namespace imgrec::sim
