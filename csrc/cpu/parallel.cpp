#include "cpu/parallel.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

namespace imgrec::cpu {
namespace {

constexpr int max_workers = 256;
// How long a thread looks before it sleeps: most kernels follow one another within it, and a sleeper takes 20 to 50 us.
constexpr auto spin_time = std::chrono::microseconds(90);

/// Lets a processor's other hardware thread run.
inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Returns the value once it differs from `seen`: looks for spin_time, then sleeps until it is notified.
template <class T>
T wait_for_change(const std::atomic<T>& value, T seen) {
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 64; ++i, pause()) {
      const T now = value.load();
      if (now != seen) return now;
    }
  } while (std::chrono::steady_clock::now() - start < spin_time);
  value.wait(seen);
  return value.load();
}

/// One job at a time. `state_` says all that a worker needs to know about it: a counter that changes with every job,
/// whether the job is open, and how many workers it wants. A worker that comes late finds the job closed and leaves it
/// alone, so nobody ever waits for a worker to wake. What holds:
///   - only the owner of `owner_` writes body_, tasks_, workers_ and state_, and the first two only while state_ is
///     closed and active_ is 0;
///   - a worker touches body_, tasks_ and shares_ only between its increment of active_ and its decrement, and only if
///     state_ was still open after the increment. The owner closes state_ before it looks at active_, and all four are
///     sequentially consistent: so the owner sees the worker, or the worker sees the job closed;
///   - every thread has a share of the tasks, neighbours of each other, always the same for as many tasks: what it
///     touched in one call it often finds in its own caches in the next. Who has ended his share takes from the
///     others';
///   - a task is claimed by one fetch_add of its share's counter, so each runs once; run() returns when all have ended,
///     and the decrement of active_ hands what they wrote to the caller;
///   - whoever waits for long sleeps in the kernel: workers for state_ to change, the owner for active_ to become 0,
///     which frees its core for a worker that another process has pushed aside.
class Pool {
 public:
  /// Takes the pool for one call; false where another thread has it.
  bool try_acquire() { return owner_.try_lock(); }
  void release() { owner_.unlock(); }

  void run(int threads, std::int64_t tasks, FunctionReference<void(std::int64_t, int)> body) {
    const auto wanted = static_cast<std::uint32_t>(grow(threads - 1));
    body_ = &body;
    tasks_ = tasks;
    threads_ = static_cast<int>(wanted) + 1;
    for (int share = 0; share < threads_; ++share)
      shares_[share].next.store(first_of(share), std::memory_order_relaxed);
    counter_ += counter_step;
    state_.store(counter_ | open_bit | wanted);
    state_.notify_all();
    work(0);
    state_.store(counter_);
    for (int active = active_.load(); active != 0;) active = wait_for_change(active_, active);
  }

 private:
  static constexpr std::uint32_t open_bit = 1u << 9, wanted_mask = open_bit - 1, counter_step = 1u << 10;

  /// Makes sure that `count` workers exist, as far as the system allows, and tells how many there are to use.
  int grow(int count) {
    if (count > max_workers) count = max_workers;
    while (workers_ < count) {
      try {
        std::thread(&Pool::serve, this, workers_ + 1, state_.load()).detach();
      } catch (...) {
        break;  // no more threads to be had: those that exist do the work
      }
      ++workers_;
    }
    return workers_ < count ? workers_ : count;
  }

  std::int64_t first_of(int share) const { return tasks_ * share / threads_; }

  void work(int worker) {
    for (int turn = 0; turn < threads_; ++turn) {
      const int share = (worker + turn) % threads_;
      const std::int64_t end = first_of(share + 1);
      for (std::int64_t task; (task = shares_[share].next.fetch_add(1, std::memory_order_relaxed)) < end;)
        (*body_)(task, worker);
    }
  }

  void serve(int worker, std::uint32_t seen) {
    for (;;) {
      seen = wait_for_change(state_, seen);
      if (!(seen & open_bit) || static_cast<std::uint32_t>(worker) > (seen & wanted_mask)) continue;
      active_.fetch_add(1);
      if (state_.load() == seen) work(worker);
      if (active_.fetch_sub(1) == 1) active_.notify_one();
    }
  }

  std::mutex owner_;
  FunctionReference<void(std::int64_t, int)>* body_ = nullptr;
  std::int64_t tasks_ = 0;
  int threads_ = 1;  // that share the job
  int workers_ = 0;
  std::uint32_t counter_ = 0;
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
  } shares_[max_workers + 1];
  alignas(64) std::atomic<std::uint32_t> state_{0};
  alignas(64) std::atomic<int> active_{0};
};

std::atomic<Pool*> the_pool{nullptr};
thread_local bool inside_task = false;

// Never destroyed: its threads may still be parked when the process ends. After a fork the child starts a new one,
// because threads do not survive fork.
Pool& pool() {
  Pool* existing = the_pool.load(std::memory_order_acquire);
  if (existing) return *existing;
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); }); });
  auto* fresh = new Pool;
  if (the_pool.compare_exchange_strong(existing, fresh)) return *fresh;
  delete fresh;
  return *existing;
}

}  // namespace

void parallel_tasks(const Context& context, std::int64_t tasks, FunctionReference<void(std::int64_t, int)> body) {
  Pool* const shared = context.threads > 1 && tasks > 1 && !inside_task ? &pool() : nullptr;
  if (!shared || !shared->try_acquire()) {
    for (std::int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  const int threads = tasks < context.threads ? static_cast<int>(tasks) : context.threads;
  shared->run(threads, tasks, [&body](std::int64_t task, int worker) {
    inside_task = true;
    body(task, worker);
    inside_task = false;
  });
  shared->release();
}

}  // namespace imgrec::cpu
