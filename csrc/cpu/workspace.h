// How the one block of scratch memory that a caller hands in becomes the arrays that a kernel works with.
#pragma once

#include <cstdint>

namespace imgrec::cpu {

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Cuts one block of memory into arrays aligned to 64 bytes. Without a block it only counts: that is how plans are
/// made.
class Workspace {
 public:
  explicit Workspace(void* block = nullptr) : block_(static_cast<char*>(block)) {}

  template <class T>
  T* take(std::int64_t count) {
    T* array = block_ ? reinterpret_cast<T*>(block_ + used_) : nullptr;
    used_ += round_up(count * static_cast<std::int64_t>(sizeof(T)), 64);
    return array;
  }

  std::int64_t used() const { return used_; }

 private:
  char* block_;
  std::int64_t used_ = 0;
};

}  // namespace imgrec::cpu
