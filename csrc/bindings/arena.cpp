#include "bindings/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <new>

namespace imgrec::bindings {
namespace {

constexpr std::size_t page = 4096;

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

std::size_t whole_pages(std::size_t size) { return (size + page - 1) / page * page; }

/// Gives the memory of the pages within a range to the system; the addresses stay ours.
void drop(char* start, std::size_t size) {
  const auto first = whole_pages(reinterpret_cast<std::uintptr_t>(start));
  const auto last = (reinterpret_cast<std::uintptr_t>(start) + size) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace

void* Arena::take(std::size_t size) {
  const auto fits = [&](const auto& item) { return item.second.size >= size; };
  auto range = std::ranges::find_if(free_, fits);
  if (range == free_.end()) {
    grow(size);
    range = std::ranges::find_if(free_, fits);
  }
  return range == free_.end() ? nullptr : cut(range, size);
}

/// The first part of a range.
void* Arena::cut(Ranges::iterator range, std::size_t size) {
  auto node = free_.extract(range);  // moved rather than made anew: nothing is allocated
  char* block = node.key();
  Range& rest = node.mapped();
  const std::size_t size_left = rest.size - size, cached_left = std::min(rest.cached, size_left);  // at most
  cached_ -= rest.cached - cached_left;
  rest = {size_left, cached_left};
  node.key() += size;
  if (rest.size > 0) free_.insert(std::move(node));
  return block;
}

/// Adds what is missing to the free range at the end of the region; or begins another region.
void Arena::grow(std::size_t size) noexcept {
  const auto after = free_.lower_bound(end_);
  const auto last = after == free_.begin() ? after : std::prev(after);
  const bool joins = last != after && last->first + last->second.size == end_;
  const std::size_t missing = whole_pages(joins ? size - last->second.size : size);
  char* memory = map(end_, missing);
  if (memory == nullptr || memory == end_) return add_end(memory, missing);
  munmap(memory, missing);
  add_end(map(find_room(size), whole_pages(size)), whole_pages(size));
}

void Arena::add_end(char* memory, std::size_t size) noexcept {
  if (!memory) return;
  end_ = memory + size;
  add(memory, {size, 0});
}

void Arena::give_back(void* block, std::size_t size, bool keep) noexcept {
  char* start = static_cast<char*>(block);
  if (!keep) drop(start, size);
  add(start, {size, keep ? size : 0});
}

void Arena::add(char* start, Range range) noexcept {
  try {
    const auto added = free_.emplace(start, range).first;
    cached_ += range.cached;
    join_next(added);
    if (added != free_.begin()) join_next(std::prev(added));
  } catch (const std::bad_alloc&) {  // no memory to remember the range by
    drop(start, range.size);
  }
}

void Arena::release() noexcept {
  for (auto& [start, range] : free_) {
    drop(start, range.size);
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
