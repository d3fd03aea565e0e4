// Where threads wait for each other: warp operations, barriers of blocks and clusters.
#include <algorithm>
#include <string>

#include "sim/hooks.h"
#include "sim/multiprocessor.h"

namespace imgrec::sim {
namespace {

void release(Multiprocessor& here, Barrier& barrier, const Thread* except) {
  for (Thread* thread = barrier.waiting; thread;) {
    Thread* next = thread->next_waiting;
    if (thread != except) here.make_ready(*thread);
    thread = next;
  }
  barrier = {};
}

bool complete(const Block& block, const Barrier& barrier) {
  return barrier.arrived > 0 && barrier.arrived >= (barrier.expected ? barrier.expected : block.running);
}

void release_block(Multiprocessor& here, Block& block, Barrier& barrier, const Thread* except) {
  hooks::barrier_completed(block, static_cast<int>(&barrier - block.barriers), barrier.expected, barrier.waiting);
  release(here, barrier, except);
}

Barrier& arrive(Block& block, const char* name, int id, int threads, Site site) {
  if (id < 0 || id >= named_barriers) fail((std::string(name) + ": there is no such barrier").c_str(), site);
  Barrier& barrier = block.barriers[id];
  const auto expected = static_cast<std::uint32_t>(threads);
  if (barrier.arrived > 0 && barrier.expected != expected)
    fail((std::string(name) + ": threads disagree on how many are to come").c_str(), site);
  barrier.expected = expected;
  ++barrier.arrived;
  return barrier;
}

void finish_collective(Multiprocessor& here, Warp& warp, Collective& pending, int except) {
  hooks::warp_met(warp, pending.arrived, !pending.operation, pending.site);
  if (pending.operation) {
    const hooks::Unobserved registers_only;
    pending.operation(pending.arguments, pending.arrived);
  }
  for (int lane = 0; lane < warp_lanes; ++lane)
    if (lane != except && (pending.arrived >> lane & 1)) here.make_ready(warp.threads[lane]);
  pending.mask = 0;
}

Collective& find_collective(Warp& warp, const char* name, WarpOperation operation, std::uint32_t mask, bool aligned,
                            Site site) {
  Collective* unused = nullptr;
  for (Collective& pending : warp.pending) {
    if (pending.mask == 0) {
      unused = &pending;
    } else if (pending.mask & mask) {
      const bool same_line = pending.site.line() == site.line() && pending.site.column() == site.column();
      if (pending.mask != mask || pending.operation != operation || (aligned && !same_line))
        fail((std::string(name) + ": other lanes of the warp have come to " + pending.name + ", line " +
              std::to_string(pending.site.line()) + ", or name other lanes")
                 .c_str(),
             site);
      return pending;
    }
  }
  if (!unused) unused = &warp.pending.emplace_back();
  unused->mask = mask;
  unused->arrived = 0;
  unused->operation = operation;
  unused->name = name;
  unused->aligned = aligned;
  unused->site = site;
  std::fill(unused->arguments, unused->arguments + warp_lanes, nullptr);
  return *unused;
}

}  // namespace

void warp_collective(const char* name, WarpOperation operation, std::uint32_t mask, void* argument, bool aligned,
                     Site site) {
  Multiprocessor& here = Multiprocessor::here();
  Thread& me = here.current();
  Warp& warp = me.block->warps[me.number / warp_lanes];
  const int lane = me.lane();
  if (!(mask >> lane & 1)) fail((std::string(name) + ": the mask leaves out this lane").c_str(), site);
  if (aligned && warp.running != all_lanes)
    fail((std::string(name) + ": needs all 32 lanes of the warp, of which some have returned or never were").c_str(),
         site);
  Collective& pending = find_collective(warp, name, operation, mask, aligned, site);
  pending.arguments[lane] = argument;
  pending.arrived |= 1u << lane;
  if (pending.arrived == (mask & warp.running))
    finish_collective(here, warp, pending, lane);
  else
    here.wait(name, mask, site);
}

void barrier_sync(const char* name, int id, int threads, Site site) {
  Multiprocessor& here = Multiprocessor::here();
  Thread& me = here.current();
  Barrier& barrier = arrive(*me.block, name, id, threads, site);
  me.next_waiting = barrier.waiting;
  barrier.waiting = &me;
  hooks::barrier_arrived(id, barrier.expected, true, site);
  if (complete(*me.block, barrier))
    release_block(here, *me.block, barrier, &me);
  else
    here.wait(name, 0, site);
}

void barrier_arrive(const char* name, int id, int threads, Site site) {
  Multiprocessor& here = Multiprocessor::here();
  Thread& me = here.current();
  Barrier& barrier = arrive(*me.block, name, id, threads, site);
  hooks::barrier_arrived(id, barrier.expected, false, site);
  if (complete(*me.block, barrier)) release_block(here, *me.block, barrier, &me);
}

/// The running threads of all blocks in the cluster.
static std::uint32_t running_in_cluster(const Block* cluster, unsigned blocks) {
  std::uint32_t running = 0;
  for (unsigned i = 0; i < blocks; ++i) running += cluster[i].running;
  return running;
}

/// Ends a phase of the cluster's barrier when all threads have arrived.
static void end_cluster_phase_if_complete(Multiprocessor& here, Block* cluster) {
  Barrier& barrier = cluster->cluster_barrier;
  if (barrier.arrived == 0 || barrier.arrived < running_in_cluster(cluster, here.launch().cluster)) return;
  release(here, barrier, nullptr);
  ++cluster->cluster_phase;
}

void cluster_arrive(Site site) {
  Multiprocessor& here = Multiprocessor::here();
  Thread& me = here.current();
  Block* cluster = here.cluster();
  if (me.in_cluster_phase) fail("cluster_arrive: this thread has arrived already and not waited", site);
  me.in_cluster_phase = true;
  me.cluster_phase = cluster->cluster_phase;
  hooks::cluster_arrived(*cluster);
  ++cluster->cluster_barrier.arrived;
  end_cluster_phase_if_complete(here, cluster);
}

void cluster_wait(Site site) {
  Multiprocessor& here = Multiprocessor::here();
  Thread& me = here.current();
  Block* cluster = here.cluster();
  if (!me.in_cluster_phase) fail("cluster_wait: this thread has not arrived", site);
  me.in_cluster_phase = false;
  if (me.cluster_phase == cluster->cluster_phase) {
    me.next_waiting = cluster->cluster_barrier.waiting;
    cluster->cluster_barrier.waiting = &me;
    here.wait("cluster_wait", 0, site);
  }
  hooks::cluster_passed(*cluster);
}

void thread_returned(Multiprocessor& here) {
  Thread& me = here.current();
  Block& block = *me.block;
  Warp& warp = block.warps[me.number / warp_lanes];
  --block.running;
  warp.running &= ~(1u << me.lane());
  for (Collective& pending : warp.pending)
    if (pending.mask && pending.arrived == (pending.mask & warp.running)) finish_collective(here, warp, pending, -1);
  for (Barrier& barrier : block.barriers)
    if (barrier.expected == 0 && complete(block, barrier)) release_block(here, block, barrier, nullptr);
  Block* cluster = here.cluster();
  // Who arrived and returns without waiting counts no longer, neither as running nor as arrived.
  if (me.in_cluster_phase && me.cluster_phase == cluster->cluster_phase) --cluster->cluster_barrier.arrived;
  end_cluster_phase_if_complete(here, cluster);
}

}  // namespace imgrec::sim
