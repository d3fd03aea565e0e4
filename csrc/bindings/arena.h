// Memory cut from one region of addresses: the pool's blocks of more than 64 KB.
#pragma once

#include <cstddef>
#include <map>

namespace imgrec::bindings {

/// Gives the lowest free range that is large enough, cuts off what is too much, and joins ranges that touch when they
/// are free again. So the next step of a training finds memory for blocks of all sizes in what the last one left, and
/// the arena hardly grows larger than what is used at once: 3 % for the steps of resnet18. Not synchronised.
class Arena {
 public:
  /// ``size`` bytes, a multiple of 64, aligned to 64; null where the system has no more.
  void* take(std::size_t size);

  /// Keeps the addresses of a block for the next taker, and its memory, or gives that to the system.
  void give_back(void* block, std::size_t size, bool keep) noexcept;

  /// Gives the memory of all free ranges to the system.
  void release() noexcept;

  /// Bytes of memory in free ranges, at most: it is not followed which pages of a range have any.
  std::size_t cached() const { return cached_; }

 private:
  struct Range {
    std::size_t size, cached;
  };
  using Ranges = std::map<char*, Range>;

  void* cut(Ranges::iterator range, std::size_t size);
  void grow(std::size_t size) noexcept;
  void add_end(char* memory, std::size_t size) noexcept;
  void add(char* start, Range range) noexcept;
  void join_next(Ranges::iterator range) noexcept;

  Ranges free_;          // no two of them touch
  char* end_ = nullptr;  // where the region may grow
  std::size_t cached_ = 0;
};

}  // namespace imgrec::bindings
