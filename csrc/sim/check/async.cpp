// Asynchronous copies: until somebody has waited for one, no thread may touch what it writes.
#include "sim/check/checker.h"
#include "sim/hooks.h"

namespace imgrec::sim::hooks {

using namespace check;

namespace {

PendingCopy issue(void* shared, const void* global, std::uint32_t bytes, Site site) {
  const SiteId place = site_of(site);
  for (std::uint32_t done = 0; global && done < bytes; done += 16)
    touch(*current,
          {reinterpret_cast<std::uintptr_t>(global) + done, std::min(bytes - done, 16u), Touch::read, true, place});
  for (std::uint32_t done = 0; done < bytes; done += 16)
    touch(*current,
          {reinterpret_cast<std::uintptr_t>(shared) + done, std::min(bytes - done, 16u), Touch::copy, true, place});
  return {shared_address(shared), bytes, current->open_group};
}

/// Who is known to have written it: `who`, or nobody who could be in conflict with anyone.
void land(const PendingCopy& copy, Access who) {
  for (std::uint32_t word = copy.address / word_bytes; word < (copy.address + copy.bytes) / word_bytes; ++word)
    land_copy(state.shared, state.shared.cells[word], who);
}

}  // namespace

void copy_issued(void* shared, const void* global, std::uint32_t bytes, Site site) {
  current->copies.push_back(issue(shared, global, bytes, site));
}

void copies_committed() { ++current->open_group; }

void copies_waited_for(std::uint32_t pending_groups) {
  std::vector<PendingCopy>& copies = current->copies;
  std::size_t landed = 0;
  while (landed < copies.size() && copies[landed].group + pending_groups < current->open_group)
    land(copies[landed++], current->at(0));
  copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(landed));
}

void bulk_copy_issued(void* shared, const void* global, std::uint32_t bytes, std::uint32_t address, Site site) {
  state.barrier_copies[address].push_back(issue(shared, global, bytes, site));
}

void mbarrier_arrived_after_copies(std::uint32_t address) {
  auto& told = state.barrier_copies[address];
  told.insert(told.end(), current->copies.begin(), current->copies.end());
  current->copies.clear();
  mbarrier_arrived(address);
}

void mbarrier_passed(std::uint32_t address) {
  acquire(*current, state.flags[address]);
  const auto told = state.barrier_copies.find(address);
  if (told == state.barrier_copies.end()) return;
  for (const PendingCopy& copy : told->second) land(copy, {});
  state.barrier_copies.erase(told);
}

}  // namespace imgrec::sim::hooks
