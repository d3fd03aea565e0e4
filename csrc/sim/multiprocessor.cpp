#include "sim/multiprocessor.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <stdexcept>
#include <tuple>

#include "sim/fiber.h"
#include "sim/hooks.h"

// The writable side of what kernels read. Same objects, declared const there.
__thread uint3 writable_thread_index asm("threadIdx") __attribute__((tls_model("initial-exec")));
__thread uint3 writable_block_index asm("blockIdx") __attribute__((tls_model("initial-exec")));
__thread uint3 writable_block_shape asm("blockDim") __attribute__((tls_model("initial-exec")));
__thread uint3 writable_grid_shape asm("gridDim") __attribute__((tls_model("initial-exec")));

namespace imgrec::sim {

namespace {

// A kernel may use the upper 64 KB of a stack. The rest is for what it uses in spite of that, so that it is reported
// before it does damage to a neighbour; nobody else touches it, so it costs addresses and no memory. An odd number of
// pages, so that stacks do not compete for the same few entries of the processor's table of addresses.
constexpr std::size_t stack_bytes = 260 << 10, usable_bytes = 64 << 10;
constexpr std::uint64_t canary = 0x5AFE57ACC0DEF00Dull;  // below them, since guard pages exhaust the system's maps
constexpr std::uint64_t most_idle_rounds = 4096;
constexpr unsigned char shared_poison = 0xFF;  // NaN in every floating dtype

/// Starts of stacks are staggered, so that they do not compete for the same lines of the cache.
std::size_t stagger(std::uint32_t thread) { return (thread * 7 % 32) * 64; }

unsigned char* map_memory(std::size_t bytes, std::size_t alignment) {
  void* memory =
      mmap(nullptr, bytes + alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t aligned = (start + alignment - 1) & ~(alignment - 1);
  if (aligned > start) munmap(memory, aligned - start);
  if (start + alignment > aligned) munmap(reinterpret_cast<void*>(aligned + bytes), start + alignment - aligned);
  return reinterpret_cast<unsigned char*>(aligned);
}

void run_thread() {
  Multiprocessor& here = Multiprocessor::here();
  here.launch().run(here.launch().parameters);
  here.finish();
}

std::string text_of(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

}  // namespace

std::string place_of(Site site) {
  const std::string file = site.file_name();
  const std::size_t slash = file.rfind("csrc/");
  return (slash == std::string::npos ? file : file.substr(slash)) + ":" + std::to_string(site.line());
}

Schedule schedule() {
  static const Schedule chosen = [] {
    const char* value = std::getenv("IMGREC_SIM_SCHEDULE");
    const std::string wanted = value && *value ? value : "eager";
    if (wanted == "eager") return Schedule::eager;
    if (wanted == "lazy") return Schedule::lazy;
    if (wanted == "reversed") return Schedule::reversed;
    throw std::invalid_argument("IMGREC_SIM_SCHEDULE is '" + wanted + "', expected eager, lazy or reversed");
  }();
  return chosen;
}

__thread Multiprocessor* Multiprocessor::the_one_here = nullptr;

Multiprocessor& Multiprocessor::make_here() {
  static thread_local std::unique_ptr<Multiprocessor> owner;
  owner = std::make_unique<Multiprocessor>();
  the_one_here = owner.get();
  return *the_one_here;
}

Multiprocessor::~Multiprocessor() {
  release_stacks();
  if (arena_) munmap(arena_, arena_bytes_);
}

void Multiprocessor::reserve(unsigned blocks, std::uint32_t threads) {
  if (blocks_.size() < blocks) blocks_.resize(blocks);
  if (arena_bytes_ < std::size_t{blocks} * window_bytes) {
    if (arena_) munmap(arena_, arena_bytes_);
    arena_ = nullptr;
    arena_bytes_ = std::size_t{blocks} * window_bytes;
    arena_ = map_memory(arena_bytes_, std::size_t{1} << 20);
  }
  if (thread_capacity_ < threads) {
    release_stacks();
    stacks_bytes_ = threads * stack_bytes;
    stacks_ = map_memory(stacks_bytes_, std::size_t{4} << 10);
    threads_ = std::make_unique<Thread[]>(threads);
    ready_.resize(threads);
    thread_capacity_ = threads;
  }
}

void Multiprocessor::release_stacks() {
  if (!stacks_) return;
  clear_marks(stacks_, stacks_bytes_);
  munmap(stacks_, stacks_bytes_);
  stacks_ = nullptr;
}

void Multiprocessor::start_block(unsigned slot, std::int64_t number) {
  const Launch& launch = *launch_;
  Block& block = blocks_[slot];
  block.index = {static_cast<unsigned>(number % launch.blocks.x),
                 static_cast<unsigned>(number / launch.blocks.x % launch.blocks.y),
                 static_cast<unsigned>(number / launch.blocks.x / launch.blocks.y)};
  block.threads = block.running = launch.threads.x * launch.threads.y * launch.threads.z;
  block.first_thread = &threads_[thread_count_];
  block.window = arena_ + std::size_t{slot} * window_bytes;
  block.window_used = static_cast<std::uint32_t>((launch.shared_bytes + gap_bytes + 127) / 128 * 128);
  block.shared_used = launch.shared_bytes;
  block.arrays.clear();
  std::memset(block.window, shared_poison, static_cast<std::size_t>(launch.shared_bytes));
  for (Barrier& barrier : block.barriers) barrier = {};
  block.cluster_barrier = {};
  block.cluster_phase = 0;
  block.warps.resize((block.threads + warp_lanes - 1) / warp_lanes);
  for (std::uint32_t i = 0; i < block.threads; ++i) {
    Thread& thread = threads_[thread_count_];
    thread = {};
    thread.number = i;
    thread.index = {i % launch.threads.x, i / launch.threads.x % launch.threads.y,
                    i / launch.threads.x / launch.threads.y};
    thread.block = &block;
    unsigned char* stack = stack_of(thread_count_);
    std::memcpy(stack + stack_bytes - usable_bytes, &canary, sizeof(canary));
    thread.stack_pointer = prepare_fiber(stack, stack_bytes - stagger(i), &run_thread);
    ++thread_count_;
  }
  for (std::size_t w = 0; w < block.warps.size(); ++w) {
    Warp& warp = block.warps[w];
    const std::uint32_t lanes = std::min<std::uint32_t>(warp_lanes, block.threads - static_cast<std::uint32_t>(w) * 32);
    warp.running = lanes == warp_lanes ? all_lanes : (1u << lanes) - 1;
    warp.threads = block.first_thread + w * warp_lanes;
    warp.pending.clear();
  }
}

bool Multiprocessor::run(const Launch& launch, std::int64_t max_shared_bytes, std::int64_t first, unsigned count) {
  const std::uint32_t per_block = launch.threads.x * launch.threads.y * launch.threads.z;
  launch_ = &launch;
  max_shared_bytes_ = max_shared_bytes;
  reserve(count, count * per_block);
  writable_block_shape = {launch.threads.x, launch.threads.y, launch.threads.z};
  writable_grid_shape = {launch.blocks.x, launch.blocks.y, launch.blocks.z};
  thread_count_ = ready_first_ = ready_count_ = 0;
  idle_spins_ = 0;
  error_.clear();
  async_.reset(count * per_block);
  for (unsigned slot = 0; slot < count; ++slot) start_block(slot, first + slot);
  hooks::blocks_begin(blocks_.data(), count, first, stacks_, stacks_bytes_);
  running_ = thread_count_;
  for (std::uint32_t i = 0; i < thread_count_; ++i)
    make_ready(threads_[schedule() == Schedule::reversed ? thread_count_ - 1 - i : i]);
  current_ = take_ready();
  writable_thread_index = current_->index;
  writable_block_index = current_->block->index;
  hooks::resumed(*current_);
  imgrec_sim_switch(&main_stack_pointer_, current_->stack_pointer);
  hooks::blocks_end();
  current_ = nullptr;
  return error_.empty();
}

unsigned char* Multiprocessor::stack_of(std::uint32_t thread) { return stacks_ + thread * stack_bytes; }

bool Multiprocessor::in_stacks(const void* address) const {
  const auto* byte = static_cast<const unsigned char*>(address);
  return byte >= stacks_ && byte < stacks_ + stacks_bytes_;
}

bool Multiprocessor::in_arena(const void* address) const {
  const auto* byte = static_cast<const unsigned char*>(address);
  return byte >= arena_ && byte < arena_ + arena_bytes_;
}

void Multiprocessor::resume(Thread& next) {
  Thread& before = *current_;
  if (&next == &before) return;
  current_ = &next;
  writable_thread_index = next.index;
  writable_block_index = next.block->index;
  hooks::resumed(next);
  imgrec_sim_switch(&before.stack_pointer, next.stack_pointer);
}

Thread& Multiprocessor::next_thread_after_copies() {
  while (async_.advance())
    if (Thread* next = take_ready()) return *next;
  report_deadlock("no thread can go on");
}

void Multiprocessor::spin(const char* what, Site site) {
  Thread& me = *current_;
  me.waits_for = what;
  me.site = site;
  me.mask = 0;
  ++idle_spins_;
  // Everyone has had a turn and found nothing new.
  if (idle_spins_ > ready_count_ + 1 && async_.advance()) progress();
  if (idle_spins_ > most_idle_rounds * (ready_count_ + 1))
    report_deadlock(launch_->cooperative || launch_->cluster > 1
                        ? "all threads that can run spin without progress"
                        : "all threads that can run spin without progress; blocks that wait for each other need a "
                          "cooperative launch");
  make_ready(me);
  me.waits_for = what;
  resume(*take_ready());
}

void Multiprocessor::fail(std::string message) {
  const Block& block = *current_->block;
  error_ = std::string(launch_->kernel) + ", block " + text_of(block.index) + ", thread " + text_of(current_->index) +
           ": " + message;
  imgrec_sim_switch(&current_->stack_pointer, main_stack_pointer_);
  std::abort();  // a failed launch is never resumed
}

void Multiprocessor::finish() {
  idle_spins_ = 0;
  if (std::memcmp(stack_of(current_number()) + stack_bytes - usable_bytes, &canary, sizeof(canary)) != 0)
    fail("needs more than the simulator's 64 KB of local memory");
  current_->done = true;
  thread_returned(*this);
  if (--running_ == 0) {
    imgrec_sim_switch(&current_->stack_pointer, main_stack_pointer_);
    std::abort();
  }
  resume(next_thread());
  std::abort();
}

/// A line for each barrier that some have come to, for the report of a deadlock.
std::string Multiprocessor::unfinished_barriers() const {
  std::string lines;
  for (const Thread* thread = threads_.get(); thread < threads_.get() + thread_count_; thread += thread->block->threads)
    for (int id = 0; id < named_barriers; ++id) {
      const Barrier& barrier = thread->block->barriers[id];
      if (barrier.arrived > 0)
        lines += "\n  block " + text_of(thread->block->index) + ", barrier " + std::to_string(id) + ": " +
                 std::to_string(barrier.arrived) + " of " +
                 std::to_string(barrier.expected ? barrier.expected : thread->block->running) + " threads have come";
    }
  return lines;
}

void Multiprocessor::report_deadlock(const char* how) {
  // Threads that wait for the same thing at the same place make one line.
  std::map<std::tuple<std::uint32_t, std::string, std::uint32_t>, std::vector<std::uint32_t>> groups;
  std::uint32_t returned = 0;
  for (std::uint32_t i = 0; i < thread_count_; ++i) {
    const Thread& thread = threads_[i];
    if (thread.done) {
      ++returned;
      continue;
    }
    const auto block = static_cast<std::uint32_t>(thread.block - blocks_.data());
    const std::string what =
        std::string(thread.waits_for ? thread.waits_for : "its turn") + " at " + place_of(thread.site);
    groups[{block, what, thread.mask}].push_back(thread.number);
  }
  error_ = std::string(launch_->kernel) + ": deadlock: " + how + ".";
  for (const auto& [key, numbers] : groups) {
    const auto& [block, what, mask] = key;
    char lanes[32] = "";
    if (mask) std::snprintf(lanes, sizeof(lanes), " (mask 0x%08x)", mask);
    error_ += "\n  block " + text_of(blocks_[block].index) + ", " + std::to_string(numbers.size()) + " threads from " +
              std::to_string(numbers.front()) + " to " + std::to_string(numbers.back()) + " wait for " + what + lanes;
  }
  error_ += unfinished_barriers() + async_.report();
  error_ += "\n  " + std::to_string(returned) + " of " + std::to_string(thread_count_) + " threads have returned";
  imgrec_sim_switch(&current_->stack_pointer, main_stack_pointer_);
  std::abort();
}

}  // namespace imgrec::sim
