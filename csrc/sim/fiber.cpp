#include "sim/fiber.h"

#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.globl imgrec_sim_switch
.hidden imgrec_sim_switch
.type imgrec_sim_switch, @function
imgrec_sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size imgrec_sim_switch, .-imgrec_sim_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.globl imgrec_sim_switch
.hidden imgrec_sim_switch
.type imgrec_sim_switch, %function
imgrec_sim_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size imgrec_sim_switch, .-imgrec_sim_switch
)");
#else
#error "The simulator switches stacks by hand, on x86-64 and aarch64: build with -DIMGREC_SIM=OFF on other processors."
#endif

namespace imgrec::sim {

#if defined(__x86_64__)
constexpr std::size_t saved_words = 6, entry_word = 6, words = 8;  // 8 bytes past 16, as after a call
#else
constexpr std::size_t saved_words = 20, entry_word = 11, words = 20;  // x30 holds where to return to
#endif

void* prepare_fiber(unsigned char* stack, std::size_t bytes, void (*entry)()) {
  static_assert(entry_word <= saved_words);
  clear_marks(stack, bytes);
  const std::uintptr_t top = (reinterpret_cast<std::uintptr_t>(stack) + bytes) & ~std::uintptr_t{15};
  void** frame = reinterpret_cast<void**>(top) - words;
  std::memset(frame, 0, words * sizeof(void*));
  frame[entry_word] = reinterpret_cast<void*>(entry);
  return frame;
}

void clear_marks([[maybe_unused]] unsigned char* stack, [[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(stack, bytes);
#endif
}

}  // namespace imgrec::sim
