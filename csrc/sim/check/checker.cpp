// The simulator's hooks: launches, blocks, and where threads wait for each other.
#include "sim/check/checker.h"

#include <utility>

#include "sim/hooks.h"

namespace imgrec::sim::check {

State state;
std::mutex one_launch;
__thread ObservedThread* current __attribute__((tls_model("initial-exec"))) = nullptr;

ObservedThread& observed(const Thread& thread) {
  return state.threads[static_cast<std::size_t>(&thread - state.blocks[0].block->first_thread)];
}

void stop(const char* kind, const std::string& what, Access who) {
  report(kind, who, [&] { return what; });
  state.stopped = true;
  Multiprocessor::here().fail("stopped by a checker");
}

std::string text_of(const Request& request) {
  const char* const names[] = {"read", "write", "asynchronous copy"};
  return std::string(names[static_cast<int>(request.touch)]) + " of " + std::to_string(request.size) + " bytes";
}

void require_aligned(const ObservedThread& thread, const Request& request) {
  if (!request.aligned || request.address % request.size == 0 || !state.options.bounds) return;
  stop("misaligned",
       text_of(request) + " at an address that is " + std::to_string(request.address % request.size) +
           " past a multiple of " + std::to_string(request.size),
       thread.at(request.site));
}

const char* relation_of(const Conflict& conflict) {
  if (conflict.was_copy) return "while an asynchronous copy goes on there that its thread has not waited for";
  return conflict.was_write ? "without order after a write" : "without order after a read";
}

namespace {

/// Hands the logs of a warp's lanes to the profile.
void take_logs(const Thread* first, std::uint32_t mask) {
  std::vector<LogEntry>* logs[warp_lanes] = {};
  for (int lane = 0; lane < warp_lanes; ++lane)
    if (mask >> lane & 1) logs[lane] = &observed(first[lane]).log;
  profile_accesses(logs);
}

void take_logs_of_block(const Block& block) {
  for (const Warp& warp : block.warps) {
    const auto lanes = block.threads - static_cast<std::uint32_t>(warp.threads - block.first_thread);
    take_logs(warp.threads, lanes < warp_lanes ? (1u << lanes) - 1 : all_lanes);
  }
}

/// Of the lanes that still run, one speaks for the warp.
bool speaks_for_warp(const Thread& thread) {
  const std::uint32_t running = thread.block->warps[thread.number / warp_lanes].running;
  return (running & -running) >> thread.lane() == 1;
}

}  // namespace
}  // namespace imgrec::sim::check

namespace imgrec::sim::hooks {

using namespace check;

ObservedLaunch::ObservedLaunch(const Launch& launch) : alone_(one_launch) {
  state.options = options();
  state.launch = &launch;
  state.stopped = false;
  state.flags.clear();
  reports_begin(launch);
  begin_global(launch);
  profile_launch(launch);
}

Unobserved::Unobserved() : observed_(std::exchange(current, nullptr)) {}
Unobserved::~Unobserved() { current = static_cast<ObservedThread*>(observed_); }

ObservedLaunch::~ObservedLaunch() { current = nullptr; }

std::string ObservedLaunch::conclude(const std::string& error) {
  std::string found = reports_text();
  if (!error.empty() && !state.stopped) found += (found.empty() ? "" : "\n") + error;
  return found;
}

void blocks_begin(Block* blocks, unsigned count, std::int64_t first, const unsigned char* stacks, std::size_t bytes) {
  const std::uint32_t threads = blocks[0].threads;
  state.arena = reinterpret_cast<std::uintptr_t>(Multiprocessor::here().arena());
  state.arena_bytes = std::uintptr_t{count} * window_bytes;
  state.stacks = reinterpret_cast<std::uintptr_t>(stacks);
  state.stacks_bytes = bytes;
  state.barrier_copies.clear();
  state.blocks.clear();
  state.blocks.resize(count);
  state.threads.resize(std::size_t{count} * threads);
  for (unsigned slot = 0; slot < count; ++slot) {
    ObservedBlock& block = state.blocks[slot];
    block.number = static_cast<std::uint32_t>(first + slot);
    block.first_party = block.number * threads;
    block.threads = threads;
    block.block = &blocks[slot];
    clear_shared(slot, state.launch->shared_bytes);
    for (std::uint32_t i = 0; i < threads; ++i) {
      ObservedThread& thread = state.threads[slot * threads + i];
      static_cast<ThreadClock&>(thread) = {block.first_party + i, 1, &block, nullptr};
      thread.thread = &blocks[slot].first_thread[i];
      thread.slot = slot;
      thread.open_group = 0;
      thread.copies.clear();
      thread.log.clear();
      block.clocks.push_back(&thread);
    }
  }
}

void blocks_end() {
  current = nullptr;
  if (!profiling) return;
  for (const ObservedBlock& block : state.blocks) {
    take_logs_of_block(*block.block);
    profile_static_shared(block.block->shared_used - state.launch->shared_bytes);
  }
}

void shared_array_placed(const Block& block, std::uint32_t offset, std::uint32_t bytes) {
  place_shared(static_cast<std::uint32_t>(block.window - Multiprocessor::here().arena()) + offset, bytes);
}

void resumed(const Thread& thread) { current = &observed(thread); }

void shared_accessed(const void* address, std::uint32_t bytes, bool write, Site site) {
  touch(*current,
        {reinterpret_cast<std::uintptr_t>(address), bytes, write ? Touch::write : Touch::read, true, site_of(site)});
}

void barrier_arrived(int id, std::uint32_t expected, bool waits, Site site) {
  ObservedBlock& block = block_of(*current);
  if (profiling && speaks_for_warp(*current->thread)) profile_barrier(site_of(site));
  if (!waits) release(*current, block.arrivals[id]);
  if (id != 0 || expected != 0) return;
  const Access mine = current->at(site_of(site));
  if (block.first_at_barrier.stamp == 0)
    block.first_at_barrier = mine;
  else if (block.first_at_barrier.site != mine.site)
    report(
        "divergent barrier", mine, [] { return std::string("a thread came to this __syncthreads"); },
        "while others of its block came to this one", block.first_at_barrier);
}

void barrier_completed(const Block& block, int id, std::uint32_t expected, const Thread* waiting) {
  ObservedBlock& seen = block_of(observed(*block.first_thread));
  if (profiling) take_logs_of_block(block);
  if (expected == 0) {
    seen.first_at_barrier = {};
    synchronise_block(seen, seen.clocks.data());
    return;
  }
  std::vector<ThreadClock*> met;
  for (; waiting; waiting = waiting->next_waiting) met.push_back(&observed(*waiting));
  if (met.empty()) return;
  acquire(*met[0], seen.arrivals[id]);
  seen.arrivals[id].clear();
  synchronise(met.data(), static_cast<int>(met.size()));
}

void warp_met(const Warp& warp, std::uint32_t mask, bool ordered, Site site) {
  if (profiling) {
    take_logs(warp.threads, mask);
    profile_barrier(site_of(site));
  }
  if (!ordered) return;
  ThreadClock* met[warp_lanes];
  int count = 0;
  for (int lane = 0; lane < warp_lanes; ++lane)
    if (mask >> lane & 1) met[count++] = &observed(warp.threads[lane]);
  synchronise(met, count);
}

// What passes through an address: a shared one of an mbarrier, or a cluster's first block for its barrier.

void cluster_arrived(const Block& cluster) {
  release(*current, state.flags[reinterpret_cast<std::uint64_t>(&cluster)]);
}
void cluster_passed(const Block& cluster) { acquire(*current, state.flags[reinterpret_cast<std::uint64_t>(&cluster)]); }

void mbarrier_made(std::uint32_t address) { state.flags[address].clear(); }
void mbarrier_arrived(std::uint32_t address) { release(*current, state.flags[address]); }

}  // namespace imgrec::sim::hooks
