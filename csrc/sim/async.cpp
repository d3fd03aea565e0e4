#include "sim/async.h"

#include <algorithm>
#include <cstring>

#include "sim/hooks.h"
#include "sim/multiprocessor.h"

namespace imgrec::sim {

void AsyncEngine::reset(std::uint32_t threads) {
  barriers_.clear();
  bulk_.clear();
  issued_ = 0;
  if (schedule() == Schedule::eager) return;  // nothing is ever under way
  if (queues_.size() < threads) queues_.resize(threads);
  for (Queue& queue : queues_) {
    queue.operations.clear();
    queue.open_group = 0;
  }
}

void AsyncEngine::issue(std::uint32_t thread, AsyncOperation operation) {
  if (schedule() == Schedule::eager) return carry_out(operation);
  operation.group = queues_[thread].open_group;
  operation.order = ++issued_;
  queues_[thread].operations.push_back(operation);
}

void AsyncEngine::issue_bulk(AsyncOperation operation) {
  if (schedule() == Schedule::eager) return carry_out(operation);
  operation.order = ++issued_;
  bulk_.push_back(operation);
}

void AsyncEngine::commit(std::uint32_t thread) {
  if (schedule() != Schedule::eager) ++queues_[thread].open_group;
}

void AsyncEngine::wait(std::uint32_t thread, std::uint32_t pending_groups) {
  if (schedule() == Schedule::eager) return;
  Queue& queue = queues_[thread];
  const auto still_open = std::find_if(
      queue.operations.begin(), queue.operations.end(),
      [&](const AsyncOperation& operation) { return operation.group + pending_groups >= queue.open_group; });
  carry_out_first(queue, static_cast<std::size_t>(still_open - queue.operations.begin()));
}

bool AsyncEngine::advance() {
  const AsyncOperation* oldest = bulk_.empty() ? nullptr : &bulk_.front();
  for (const Queue& queue : queues_)
    for (const AsyncOperation& operation : queue.operations)
      if (operation.barrier != AsyncOperation::no_barrier && (!oldest || operation.order < oldest->order))
        oldest = &operation;
  if (!oldest) return false;
  const std::uint32_t barrier = oldest->barrier;
  const auto tells = [&](const AsyncOperation& operation) { return operation.barrier == barrier; };
  for (Queue& queue : queues_) {
    const auto arrival = std::find_if(queue.operations.begin(), queue.operations.end(), tells);
    if (arrival != queue.operations.end())
      carry_out_first(queue, static_cast<std::size_t>(arrival - queue.operations.begin()) + 1);
  }
  for (const AsyncOperation& operation : bulk_)
    if (tells(operation)) carry_out(operation);
  std::erase_if(bulk_, tells);
  return true;
}

void AsyncEngine::carry_out_first(Queue& queue, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) carry_out(queue.operations[i]);
  queue.operations.erase(queue.operations.begin(), queue.operations.begin() + static_cast<std::ptrdiff_t>(count));
}

void AsyncEngine::carry_out(const AsyncOperation& operation) {
  if (operation.bytes == 0) return arrive("mbarrier_arrive_after_copies", operation.barrier, operation.site);
  if (operation.global)
    std::memcpy(operation.shared, operation.global, operation.bytes);
  else
    std::memset(operation.shared, 0, operation.bytes);
  if (operation.barrier == AsyncOperation::no_barrier) return;
  MBarrierState& state = find("copy_bulk", operation.barrier, operation.site);
  state.pending_bytes -= operation.bytes;
  end_phase_if_complete(state);
}

MBarrierState& AsyncEngine::find(const char* name, std::uint32_t address, Site site) {
  const auto found = barriers_.find(address);
  if (found == barriers_.end()) fail((std::string(name) + ": no mbarrier_init has made a barrier there").c_str(), site);
  return found->second;
}

void AsyncEngine::arrive(const char* name, std::uint32_t address, Site site) {
  MBarrierState& state = find(name, address, site);
  if (state.pending == 0)
    fail((std::string(name) + ": a phase of this barrier ends with " + std::to_string(state.arrivals) +
          " arrivals, and this is one more")
             .c_str(),
         site);
  --state.pending;
  end_phase_if_complete(state);
}

void AsyncEngine::end_phase_if_complete(MBarrierState& state) {
  here_.progress();
  if (state.pending != 0 || state.pending_bytes != 0) return;
  state.parity ^= 1;
  state.pending = state.arrivals;
  for (Thread* thread = state.waiting; thread;) {
    Thread* next = thread->next_waiting;
    here_.make_ready(*thread);
    thread = next;
  }
  state.waiting = nullptr;
}

std::string AsyncEngine::report() const {
  std::vector<std::pair<std::uint32_t, MBarrierState>> waited_for;
  for (const auto& [address, state] : barriers_)
    if (state.pending < state.arrivals || state.pending_bytes != 0 || state.waiting)
      waited_for.emplace_back(address, state);
  std::sort(waited_for.begin(), waited_for.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string lines;
  for (const auto& [address, state] : waited_for)
    lines += "\n  the mbarrier at shared address " + std::to_string(address) + " waits for " +
             std::to_string(state.pending) + " of " + std::to_string(state.arrivals) + " arrivals and " +
             std::to_string(state.pending_bytes) + " bytes, to end a phase of parity " + std::to_string(state.parity);
  return lines;
}

// --- what kernels ask for -------------------------------------------------------------------------------------------

namespace {

AsyncEngine& engine() { return Multiprocessor::here().async(); }

std::uint32_t me() { return Multiprocessor::here().current_number(); }

std::uint32_t address_of(const char* name, const std::uint64_t* barrier, Site site) {
  require_shared(name, barrier, sizeof(*barrier), site);
  return shared_address(barrier);
}

void require_aligned(const char* name, const void* global, std::uint32_t alignment, Site site) {
  if (reinterpret_cast<std::uintptr_t>(global) % alignment != 0)
    fail((std::string(name) + ": the global address is not a multiple of " + std::to_string(alignment)).c_str(), site);
}

}  // namespace

void copy_async(void* shared, const void* global, int bytes, bool valid, Site site) {
  const auto size = static_cast<std::uint32_t>(bytes);
  require_shared("copy_async", shared, size, site);
  if (valid) require_aligned("copy_async", global, size, site);
  hooks::copy_issued(shared, valid ? global : nullptr, size, site);
  engine().issue(me(), {.shared = shared, .global = valid ? global : nullptr, .bytes = size, .site = site});
}

void copy_async_commit() {
  hooks::copies_committed();
  engine().commit(me());
}

void copy_async_wait(int pending_groups) {
  hooks::copies_waited_for(static_cast<std::uint32_t>(pending_groups));
  engine().wait(me(), static_cast<std::uint32_t>(pending_groups));
}

void copy_bulk(void* shared, const void* global, std::uint32_t bytes, std::uint64_t* barrier, Site site) {
  require_shared("copy_bulk", shared, 16, site);
  require_aligned("copy_bulk", global, 16, site);
  if (bytes == 0 || bytes % 16 != 0) fail("copy_bulk: the number of bytes is not a positive multiple of 16", site);
  const std::uint32_t address = address_of("copy_bulk", barrier, site);
  engine().find("copy_bulk", address, site);
  hooks::bulk_copy_issued(shared, global, bytes, address, site);
  engine().issue_bulk({.shared = shared, .global = global, .bytes = bytes, .barrier = address, .site = site});
}

void mbarrier_init(std::uint64_t* barrier, std::uint32_t arrivals, Site site) {
  constexpr std::uint32_t most = (1u << 20) - 1;
  if (arrivals < 1 || arrivals > most) fail("mbarrier_init: 1 to 1048575 arrivals are possible", site);
  const std::uint32_t address = address_of("mbarrier_init", barrier, site);
  hooks::mbarrier_made(address);
  engine().init(address, arrivals);
}

void mbarrier_invalidate(std::uint64_t* barrier, Site site) {
  const std::uint32_t address = address_of("mbarrier_invalidate", barrier, site);
  if (engine().find("mbarrier_invalidate", address, site).waiting)
    fail("mbarrier_invalidate: threads wait for this barrier", site);
  engine().invalidate(address);
}

void mbarrier_arrive(std::uint64_t* barrier, Site site) {
  const std::uint32_t address = address_of("mbarrier_arrive", barrier, site);
  hooks::mbarrier_arrived(address);
  engine().arrive("mbarrier_arrive", address, site);
}

void mbarrier_arrive_after_copies(std::uint64_t* barrier, Site site) {
  const std::uint32_t address = address_of("mbarrier_arrive_after_copies", barrier, site);
  engine().find("mbarrier_arrive_after_copies", address, site);
  hooks::mbarrier_arrived_after_copies(address);
  engine().issue(me(), {.barrier = address, .site = site});
}

void mbarrier_arrive_expect_tx(std::uint64_t* barrier, std::uint32_t bytes, Site site) {
  const char* name = "mbarrier_arrive_expect_tx";
  const std::uint32_t address = address_of(name, barrier, site);
  engine().find(name, address, site).pending_bytes += bytes;
  hooks::mbarrier_arrived(address);
  engine().arrive(name, address, site);
}

bool mbarrier_try_wait(std::uint64_t* barrier, std::uint32_t parity, Site site) {
  if (parity > 1) fail("mbarrier_try_wait: the parity of a phase is 0 or 1", site);
  const std::uint32_t address = address_of("mbarrier_try_wait", barrier, site);
  const bool ended = engine().find("mbarrier_try_wait", address, site).parity != parity;
  if (ended) hooks::mbarrier_passed(address);
  return ended;
}

void mbarrier_wait(std::uint64_t* barrier, std::uint32_t parity, Site site) {
  if (parity > 1) fail("mbarrier_wait: the parity of a phase is 0 or 1", site);
  const std::uint32_t address = address_of("mbarrier_wait", barrier, site);
  MBarrierState& state = engine().find("mbarrier_wait", address, site);
  if (state.parity == parity) {
    Multiprocessor& here = Multiprocessor::here();
    Thread& thread = here.current();
    thread.next_waiting = state.waiting;
    state.waiting = &thread;
    here.wait("mbarrier_wait", 0, site);
  }
  hooks::mbarrier_passed(address);
}

}  // namespace imgrec::sim
