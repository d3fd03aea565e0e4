// Stacks that one operating-system thread runs in turns.
//
// A switch saves the registers that the calling convention asks a function to keep, and swaps the stack pointer: 8-13
// ns, where swapcontext, which also calls the kernel to change the signal mask, takes 400.
#pragma once

#include <cstddef>

namespace imgrec::sim {

/// Continues what was left at `to` and leaves the caller at `*from`, to be continued in its turn.
extern "C" void imgrec_sim_switch(void** from, void* to);

/// Prepares a stack, whose lowest address is `stack`, to run entry() when it is first switched to; entry never returns.
void* prepare_fiber(unsigned char* stack, std::size_t bytes, void (*entry)());

/// Forgets the address sanitizer's marks of frames on a stack. Fibers are left without returning: what uses the memory
/// next would be blamed for touching them.
void clear_marks(unsigned char* stack, std::size_t bytes);

}  // namespace imgrec::sim
