// One operating-system thread's part of the simulated GPU: the fibers, blocks and shared memory that it works on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sim/async.h"
#include "sim/launch.h"
#include "sim/runtime.h"

namespace imgrec::sim {

struct Block;

/// One CUDA thread.
struct Thread {
  void* stack_pointer = nullptr;
  uint3 index{};             // threadIdx
  std::uint32_t number = 0;  // in its block
  Block* block = nullptr;
  Thread* next_waiting = nullptr;   // of those at the same barrier
  bool in_cluster_phase = false;    // has come to the cluster's barrier and not waited for it
  std::uint32_t cluster_phase = 0;  // of its coming
  // What it waits for, for the report of a deadlock; null where it runs.
  const char* waits_for = nullptr;
  Site site;
  std::uint32_t mask = 0;
  bool done = false;

  int lane() const { return static_cast<int>(number % warp_lanes); }
};

/// A warp operation that some lanes have come to.
struct Collective {
  std::uint32_t mask = 0, arrived = 0;  // mask 0: nothing is pending here
  WarpOperation operation = nullptr;
  const char* name = nullptr;
  bool aligned = false;
  Site site;
  void* arguments[warp_lanes];
};

struct Warp {
  std::uint32_t running = 0;  // lanes that have not returned
  Thread* threads = nullptr;
  std::vector<Collective> pending;  // keyed by mask: parts of a diverged warp do not meet
};

struct Barrier {
  std::uint32_t arrived = 0, expected = 0;  // expected 0: all threads that still run
  Thread* waiting = nullptr;
};

struct SharedArray {
  const void* key;
  const char* name;
  std::uint32_t offset, bytes;  // in the block's window
};

constexpr int named_barriers = 16;
constexpr std::uint32_t window_bytes = 256 << 10;  // a block's part of the arena; a power of two beyond any limit
constexpr std::uint32_t gap_bytes = 256;           // between arrays, where no access is right

struct Block {
  uint3 index{};
  std::uint32_t threads = 0, running = 0;
  Thread* first_thread = nullptr;
  unsigned char* window = nullptr;
  std::uint32_t window_used = 0;  // of the window, gaps included
  std::int64_t shared_used = 0;   // as a GPU counts
  std::vector<SharedArray> arrays;
  Barrier barriers[named_barriers];
  Barrier cluster_barrier;  // of the cluster whose first block this is
  std::uint32_t cluster_phase = 0;
  std::vector<Warp> warps;
};

/// "csrc/cuda/x.cu:12"
std::string place_of(Site site);

/// What a thread's return completes: barriers and warp operations that waited for it alone.
class Multiprocessor;
void thread_returned(Multiprocessor& here);

/// How threads take turns, from IMGREC_SIM_SCHEDULE.
enum class Schedule : std::uint8_t {
  eager,     // threads in order; asynchronous copies are done when they are issued
  lazy,      // asynchronous copies are done as late as is legal
  reversed,  // threads in reverse order, lazy copies
};
Schedule schedule();

class Multiprocessor {
 public:
  /// That of the calling operating-system thread.
  static Multiprocessor& here() { return the_one_here ? *the_one_here : make_here(); }

  /// Runs the blocks first .. first + count - 1 together; false, with error(), where one of them failed.
  bool run(const Launch& launch, std::int64_t max_shared_bytes, std::int64_t first, unsigned count);
  const std::string& error() const { return error_; }

  // For what runs in a fiber.
  /// The first block of the current thread's cluster; the others follow it.
  Block* cluster() { return &blocks_[(current_->block - blocks_.data()) / launch_->cluster * launch_->cluster]; }
  Thread& current() { return *current_; }
  /// The current thread's number among all that run together.
  std::uint32_t current_number() const { return static_cast<std::uint32_t>(current_ - threads_.get()); }
  AsyncEngine& async() { return async_; }
  const Launch& launch() const { return *launch_; }
  unsigned char* arena() const { return arena_; }
  std::int64_t max_shared_bytes() const { return max_shared_bytes_; }

  void make_ready(Thread& thread) {
    thread.waits_for = nullptr;
    std::uint32_t place = ready_first_ + ready_count_++;
    if (place >= thread_capacity_) place -= thread_capacity_;
    ready_[place] = &thread;
  }
  /// Leaves the current thread, which something else will make ready.
  void wait(const char* what, std::uint32_t mask, Site site) {
    idle_spins_ = 0;
    current_->waits_for = what;
    current_->mask = mask;
    current_->site = site;
    resume(next_thread());
  }
  /// Leaves the current thread at the end of the queue.
  void spin(const char* what, Site site);
  /// Notes that memory has changed that spinning threads may be waiting for.
  void progress() { idle_spins_ = 0; }
  [[noreturn]] void fail(std::string message);
  /// Leaves a returned thread for good.
  [[noreturn]] void finish();

  /// Whether an address lies in the memory of some fiber's stack.
  bool in_stacks(const void* address) const;
  /// Whether it lies in the shared memory of some block.
  bool in_arena(const void* address) const;

  ~Multiprocessor();

 private:
  static Multiprocessor& make_here();
  void reserve(unsigned blocks, std::uint32_t threads);
  void release_stacks();
  void start_block(unsigned slot, std::int64_t number);
  void resume(Thread& next);
  Thread* take_ready() {
    if (ready_count_ == 0) return nullptr;
    Thread* thread = ready_[ready_first_];
    if (++ready_first_ == thread_capacity_) ready_first_ = 0;
    --ready_count_;
    return thread;
  }
  /// Who is to run when the current thread cannot: copies under way may have to land first.
  Thread& next_thread() {
    Thread* next = take_ready();
    return next ? *next : next_thread_after_copies();
  }
  Thread& next_thread_after_copies();
  std::string unfinished_barriers() const;
  [[noreturn]] void report_deadlock(const char* how);
  unsigned char* stack_of(std::uint32_t thread);

  const Launch* launch_ = nullptr;
  std::int64_t max_shared_bytes_ = 0;
  Thread* current_ = nullptr;
  void* main_stack_pointer_ = nullptr;

  std::vector<Block> blocks_;
  std::unique_ptr<Thread[]> threads_;
  std::uint32_t thread_count_ = 0, thread_capacity_ = 0, running_ = 0;
  unsigned char* stacks_ = nullptr;
  std::size_t stacks_bytes_ = 0;
  unsigned char* arena_ = nullptr;
  std::size_t arena_bytes_ = 0;

  std::vector<Thread*> ready_;  // a ring: each thread is in it once at most
  std::uint32_t ready_first_ = 0, ready_count_ = 0;
  std::uint64_t idle_spins_ = 0;  // turns that were only spent on waiting, since the last that was not
  AsyncEngine async_{*this};
  std::string error_;

  static __thread Multiprocessor* the_one_here __attribute__((tls_model("initial-exec")));
};

}  // namespace imgrec::sim
