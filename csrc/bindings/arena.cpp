#include "bindings/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <iterator>
#include <new>

namespace imgrec::bindings {
namespace {

/// At this address if it is free, else where the system likes; null where there is no more.
char* map(char* wanted, std::size_t size, int protection = PROT_READ | PROT_WRITE) {
  void* memory = mmap(wanted, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
}

/// An address after which many are free: the system hands out those at the far end of such a hole first.
char* find_room(std::size_t size) {
  for (std::size_t room = std::size_t{1} << 36; room > size; room /= 2) {
    char* start = map(nullptr, room, PROT_NONE);
    if (!start) continue;
    munmap(start, room);
    return start;
  }
  return nullptr;
}

}  // namespace

void* Arena::take(std::size_t size) {
  const auto range = std::ranges::find_if(free_, [&](const auto& item) { return item.second.size >= size; });
  return range == free_.end() ? extend(size) : cut(range, size);
}

/// The first part of a range.
void* Arena::cut(Ranges::iterator range, std::size_t size) {
  auto node = free_.extract(range);  // moved rather than made anew: nothing is allocated
  char* block = node.key();
  Range& rest = node.mapped();
  const std::size_t cached = std::min(rest.cached, size);
  cached_ -= cached;
  rest = {rest.size - size, rest.cached - cached};
  node.key() += size;
  if (rest.size > 0) free_.insert(std::move(node));
  return block;
}

/// New memory at the end of the region, together with the free range there; or in another region.
void* Arena::extend(std::size_t size) {
  auto last = free_.lower_bound(end_);
  const bool joins = last != free_.begin() && (--last)->first + last->second.size == end_;
  const std::size_t missing = joins ? size - last->second.size : size;
  char* memory = map(end_, missing);
  if (memory && memory == end_) {
    end_ += missing;
    if (joins) {
      cached_ -= last->second.cached;
      free_.erase(last);
    }
    return end_ - size;
  }
  if (memory) munmap(memory, missing);
  memory = map(find_room(size), size);
  if (memory) end_ = memory + size;
  return memory;
}

void Arena::give_back(void* block, std::size_t size, bool keep) noexcept {
  if (!keep) madvise(block, size, MADV_DONTNEED);
  try {
    const auto added = free_.emplace(static_cast<char*>(block), Range{size, keep ? size : 0}).first;
    cached_ += added->second.cached;
    join_next(added);
    if (added != free_.begin()) join_next(std::prev(added));
  } catch (const std::bad_alloc&) {  // no memory to remember the block by
    munmap(block, size);
  }
}

void Arena::release() noexcept {
  for (auto& [start, range] : free_) {
    madvise(start, range.size, MADV_DONTNEED);
    range.cached = 0;
  }
  cached_ = 0;
}

/// Makes a range and the one after it one, where they touch.
void Arena::join_next(Ranges::iterator range) noexcept {
  const auto next = std::next(range);
  if (next == free_.end() || range->first + range->second.size != next->first) return;
  range->second.size += next->second.size;
  range->second.cached += next->second.cached;
  free_.erase(next);
}

}  // namespace imgrec::bindings
