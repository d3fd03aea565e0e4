// Copies that go on while threads compute, and the mbarriers that tell when they have landed.
//
// With the eager schedule a copy is done where it is issued. With the others it is done as late as is legal: when its
// thread waits for it, or, where only an mbarrier tells, when no thread can go on without it. A kernel that forgets to
// wait then computes with what was there before.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "sim/runtime.h"

namespace imgrec::sim {

struct Thread;
class Multiprocessor;

/// An mbarrier, beside the shared memory that it stands for.
struct MBarrierState {
  std::uint32_t arrivals = 0;      // that end a phase
  std::uint32_t pending = 0;       // of them in this phase
  std::int64_t pending_bytes = 0;  // announced and not landed; below zero where they landed first
  std::uint32_t parity = 0;        // of the phase that goes on
  Thread* waiting = nullptr;       // for its end
};

/// A copy under way; or, without bytes, an arrival that waits for the copies before it.
struct AsyncOperation {
  void* shared = nullptr;
  const void* global = nullptr;  // null: zeros
  std::uint32_t bytes = 0;
  std::uint32_t barrier = no_barrier;  // the shared address to tell
  std::uint32_t group = 0;             // of cp.async: the number of the commit that closes it
  std::uint64_t order = 0;             // of issue, among all threads
  Site site;

  static constexpr std::uint32_t no_barrier = 0xFFFFFFFFu;
};

/// What is under way on one multiprocessor.
class AsyncEngine {
 public:
  explicit AsyncEngine(Multiprocessor& here) : here_(here) {}

  void reset(std::uint32_t threads);

  /// cp.async and arrivals behind it, which are done in the order of their thread; bulk copies.
  void issue(std::uint32_t thread, AsyncOperation operation);
  void issue_bulk(AsyncOperation operation);
  void commit(std::uint32_t thread);
  void wait(std::uint32_t thread, std::uint32_t pending_groups);
  /// Does what the barrier that has been told of first, among those that are still to be told, waits for; false if
  /// there is none. Called when no thread can go on.
  bool advance();

  void init(std::uint32_t address, std::uint32_t arrivals) { barriers_[address] = {arrivals, arrivals, 0, 0, nullptr}; }
  void invalidate(std::uint32_t address) { barriers_.erase(address); }
  MBarrierState& find(const char* name, std::uint32_t address, Site site);
  void arrive(const char* name, std::uint32_t address, Site site);

  /// A line for each mbarrier that threads wait for, for the report of a deadlock.
  std::string report() const;

 private:
  /// What one thread has issued, in order.
  struct Queue {
    std::vector<AsyncOperation> operations;
    std::uint32_t open_group = 0;
  };

  void carry_out(const AsyncOperation& operation);
  void carry_out_first(Queue& queue, std::size_t count);
  void end_phase_if_complete(MBarrierState& state);

  Multiprocessor& here_;
  std::vector<Queue> queues_;  // of threads
  std::vector<AsyncOperation> bulk_;
  std::uint64_t issued_ = 0;
  std::unordered_map<std::uint32_t, MBarrierState> barriers_;
};

// What kernels ask for, through cuda/arch/.
void copy_async(void* shared, const void* global, int bytes, bool valid, Site site);
void copy_async_commit();
void copy_async_wait(int pending_groups);
void copy_bulk(void* shared, const void* global, std::uint32_t bytes, std::uint64_t* barrier, Site site);

void mbarrier_init(std::uint64_t* barrier, std::uint32_t arrivals, Site site);
void mbarrier_invalidate(std::uint64_t* barrier, Site site);
void mbarrier_arrive(std::uint64_t* barrier, Site site);
void mbarrier_arrive_after_copies(std::uint64_t* barrier, Site site);
void mbarrier_arrive_expect_tx(std::uint64_t* barrier, std::uint32_t bytes, Site site);
bool mbarrier_try_wait(std::uint64_t* barrier, std::uint32_t parity, Site site);
void mbarrier_wait(std::uint64_t* barrier, std::uint32_t parity, Site site);

}  // namespace imgrec::sim
