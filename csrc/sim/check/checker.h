// The checkers' picture of a launch: its blocks, its threads, and what each of them knows.
//
// One launch is followed at a time, on the operating-system thread that started it.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "sim/check/options.h"
#include "sim/check/order.h"
#include "sim/check/profile_log.h"
#include "sim/check/shadow.h"
#include "sim/multiprocessor.h"

namespace imgrec::sim::check {

/// An asynchronous copy that its thread has not waited for.
struct PendingCopy {
  std::uint32_t address, bytes;  // in the arena
  std::uint32_t group;
};

struct ObservedBlock : BlockClock {
  const Block* block = nullptr;
  Knowledge arrivals[named_barriers];  // of threads that came to a barrier without waiting
  Access first_at_barrier{};           // of this episode of __syncthreads
  std::vector<ThreadClock*> clocks;
};

struct ObservedThread : ThreadClock {
  const Thread* thread = nullptr;
  std::uint32_t slot = 0;  // of its block, among those that run together
  std::uint32_t open_group = 0;
  std::vector<PendingCopy> copies;
  std::vector<LogEntry> log;

  Access at(SiteId site) const { return {party, stamp, site}; }
};

/// What a launch's blocks on one multiprocessor share.
struct State {
  const Launch* launch = nullptr;
  Options options;
  std::vector<ObservedBlock> blocks;
  std::vector<ObservedThread> threads;
  std::uintptr_t arena = 0, arena_bytes = 0, stacks = 0, stacks_bytes = 0;
  Shadow shared;                                                               // of the arena
  std::unordered_map<std::uint64_t, Knowledge> flags;                          // what was released through an address
  std::unordered_map<std::uint32_t, std::vector<PendingCopy>> barrier_copies;  // that an mbarrier tells of
  bool stopped = false;  // by a report after which nothing can go on
};
extern State state;
extern std::mutex one_launch;  // held while one goes on

/// The thread that runs on this operating-system thread; null outside of kernels.
extern __thread ObservedThread* current __attribute__((tls_model("initial-exec")));

ObservedThread& observed(const Thread& thread);
inline ObservedBlock& block_of(ObservedThread& thread) { return static_cast<ObservedBlock&>(*thread.block); }

/// Reports and ends the launch: the access itself would do harm.
[[noreturn]] void stop(const char* kind, const std::string& what, Access who);

/// What the current thread is about to do. `plain`: neither atomic nor volatile.
struct Request {
  std::uintptr_t address;
  unsigned size;
  Touch touch;
  bool plain;
  SiteId site;
  bool aligned = true;  // to its size, as the compiler has it
};
/// "read of 4 bytes"
std::string text_of(const Request& request);

const char* relation_of(const Conflict& conflict);

/// Reports two accesses without order. where() names the memory.
template <class Place>
void report_race(const ObservedThread& thread, const Request& request, const Conflict& conflict, Place&& where) {
  report(
      "race", thread.at(request.site), [&] { return text_of(request) + " of " + where(); }, relation_of(conflict),
      conflict.access);
}

/// A structure of 16 bytes that is aligned to 8 cannot be told from a wide access: in the arrays of kernels there is
/// none.
void require_aligned(const ObservedThread& thread, const Request& request);

void touch_shared(ObservedThread& thread, const Request& request);
void touch_global(ObservedThread& thread, const Request& request);

/// Shared and global memory; everything else is the thread's own.
inline void touch(ObservedThread& thread, const Request& request) {
  if (request.address - state.arena < state.arena_bytes) return touch_shared(thread, request);
  if (request.address - state.stacks < state.stacks_bytes) return;
  touch_global(thread, request);
}

// The shared memory of blocks that begin; the arrays that the launch may use.
void clear_shared(unsigned slot, std::int64_t dynamic_bytes);
void place_shared(std::uint32_t address, std::uint32_t bytes);
void begin_global(const Launch& launch);

}  // namespace imgrec::sim::check
