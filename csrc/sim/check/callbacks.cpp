// What the compiler calls in kernels before each access to memory, with -fsanitize=thread: GCC's libtsan offers the
// same functions, for threads of the operating system.
//
// An access of an atomic or a volatile is never a race. Atomics order as the C++ memory model says by their order.
#include <bit>

#include "sim/check/checker.h"

namespace imgrec::sim::check {
namespace {

template <bool Aligned>
inline __attribute__((always_inline)) void touch_here(const volatile void* address, unsigned size, Touch kind,
                                                      bool plain, const void* return_address) {
  ObservedThread* const thread = current;
  if (!thread) return;  // the host's part of a kernel's file
  touch(*thread, {reinterpret_cast<std::uintptr_t>(address), size, kind, plain, site_of(return_address), Aligned});
}

constexpr bool acquires(int order) { return order != __ATOMIC_RELAXED && order != __ATOMIC_RELEASE; }
constexpr bool releases(int order) {
  return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

/// What an atomic access to an address does to the order of threads.
void order_by(const volatile void* address, int order, bool reads, bool writes) {
  if (!current) return;
  Knowledge& flag = state.flags[reinterpret_cast<std::uintptr_t>(address)];
  if (reads && acquires(order)) acquire(*current, flag);
  if (writes && releases(order)) release(*current, flag);
}

template <class T>
inline __attribute__((always_inline)) void atomic(const volatile T* address, int order, bool reads, bool writes,
                                                  const void* return_address) {
  if (reads) touch_here<true>(address, sizeof(T), Touch::read, false, return_address);
  if (writes) touch_here<true>(address, sizeof(T), Touch::write, false, return_address);
  order_by(address, order, reads, writes);
}

}  // namespace
}  // namespace imgrec::sim::check

using imgrec::sim::check::atomic;
using imgrec::sim::check::Touch;
using imgrec::sim::check::touch_here;

#define HERE __builtin_return_address(0)

extern "C" {

void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}  // of objects on the host: kernels have no virtual functions
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* address, std::size_t size) {
  touch_here<false>(address, static_cast<unsigned>(size), Touch::read, true, HERE);
}
void __tsan_write_range(void* address, std::size_t size) {
  touch_here<false>(address, static_cast<unsigned>(size), Touch::write, true, HERE);
}

#define ACCESSES(size)                                                                                             \
  void __tsan_read##size(void* address) { touch_here<true>(address, size, Touch::read, true, HERE); }              \
  void __tsan_write##size(void* address) { touch_here<true>(address, size, Touch::write, true, HERE); }            \
  void __tsan_unaligned_read##size(void* address) { touch_here<false>(address, size, Touch::read, true, HERE); }   \
  void __tsan_unaligned_write##size(void* address) { touch_here<false>(address, size, Touch::write, true, HERE); } \
  void __tsan_volatile_read##size(void* address) { touch_here<true>(address, size, Touch::read, false, HERE); }    \
  void __tsan_volatile_write##size(void* address) { touch_here<true>(address, size, Touch::write, false, HERE); }  \
  void __tsan_unaligned_volatile_read##size(void* a) { touch_here<false>(a, size, Touch::read, false, HERE); }     \
  void __tsan_unaligned_volatile_write##size(void* a) { touch_here<false>(a, size, Touch::write, false, HERE); }

ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

// The compiler hands over the operation itself, too. Threads take turns, so that the order is a matter for the checkers
// alone.
#define ATOMIC_UPDATE(bits, type, name)                                              \
  type __tsan_atomic##bits##_##name(volatile type* address, type value, int order) { \
    atomic(address, order, true, true, HERE);                                        \
    return __atomic_##name(address, value, __ATOMIC_SEQ_CST);                        \
  }

#define ATOMICS(bits, type)                                                                                        \
  type __tsan_atomic##bits##_load(const volatile type* address, int order) {                                       \
    atomic(address, order, true, false, HERE);                                                                     \
    return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                                             \
  }                                                                                                                \
  void __tsan_atomic##bits##_store(volatile type* address, type value, int order) {                                \
    atomic(address, order, false, true, HERE);                                                                     \
    __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                                                            \
  }                                                                                                                \
  type __tsan_atomic##bits##_exchange(volatile type* address, type value, int order) {                             \
    atomic(address, order, true, true, HERE);                                                                      \
    return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);                                                  \
  }                                                                                                                \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile type* address, type* expected, type value, int order, \
                                                    int) {                                                         \
    atomic(address, order, true, true, HERE);                                                                      \
    return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);       \
  }                                                                                                                \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile type* address, type* expected, type value, int order,   \
                                                  int) {                                                           \
    atomic(address, order, true, true, HERE);                                                                      \
    return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);       \
  }                                                                                                                \
  ATOMIC_UPDATE(bits, type, fetch_add)                                                                             \
  ATOMIC_UPDATE(bits, type, fetch_sub)                                                                             \
  ATOMIC_UPDATE(bits, type, fetch_and)                                                                             \
  ATOMIC_UPDATE(bits, type, fetch_or)                                                                              \
  ATOMIC_UPDATE(bits, type, fetch_xor)

ATOMICS(8, std::uint8_t)
ATOMICS(16, std::uint16_t)
ATOMICS(32, std::uint32_t)
ATOMICS(64, std::uint64_t)

void __tsan_atomic_thread_fence(int) {}

}  // extern "C"
