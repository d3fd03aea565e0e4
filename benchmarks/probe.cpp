// How fast the machine is at this moment: fused multiply-adds, and copies, on some threads at once.

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int width = 16;
#elif defined(__AVX__)
constexpr int width = 8;
#else
constexpr int width = 4;
#endif
typedef float Vector __attribute__((vector_size(width * sizeof(float))));

// Two units with a latency of four or five cycles want ten chains; all of them and the factors fit in 16 registers.
constexpr int chains = 12;

float multiply_add(std::int64_t rounds, float factor) {
  Vector sums[chains];
  for (int i = 0; i < chains; ++i) sums[i] = Vector{} + static_cast<float>(i);
  const Vector factors = Vector{} + factor, terms = Vector{} + 1.0f;
  for (std::int64_t round = 0; round < rounds; ++round)
    for (int i = 0; i < chains; ++i) sums[i] = sums[i] * factors + terms;
  for (int i = 1; i < chains; ++i) sums[0] += sums[i];
  return sums[0][0];
}

/// Keeps a thread on the core of this number among those that the process may use: a fresh thread may else be started
/// on a core that is in use, and would tell of the scheduler instead of other processes.
void stay(std::thread& thread, const cpu_set_t& allowed, int number) {
  number %= CPU_COUNT(&allowed);
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &allowed) || number-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    pthread_setaffinity_np(thread.native_handle(), sizeof one, &one);
    return;
  }
}

/// Runs body(thread) on all threads at once; seconds from the first start to the last end.
template <class Body>
double seconds_together(int threads, Body body) {
  using Clock = std::chrono::steady_clock;
  std::vector<Clock::time_point> starts(threads), ends(threads);
  std::atomic<int> waiting{threads};
  auto run = [&](int thread) {
    --waiting;
    while (waiting.load() > 0) std::this_thread::yield();
    starts[thread] = Clock::now();
    body(thread);
    ends[thread] = Clock::now();
  };
  cpu_set_t allowed;
  sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<std::thread> team;
  for (int thread = 0; thread < threads; ++thread) {
    team.emplace_back(run, thread);
    stay(team.back(), allowed, thread);
  }
  for (std::thread& thread : team) thread.join();
  auto start = starts[0], end = ends[0];
  for (int thread = 1; thread < threads; ++thread) {
    if (starts[thread] < start) start = starts[thread];
    if (ends[thread] > end) end = ends[thread];
  }
  return std::chrono::duration<double>(end - start).count();
}

}  // namespace

/// What a thread computes in one round.
extern "C" const int probe_flop_a_round = 2 * width * chains;

/// Operations a second, where each thread runs `rounds` rounds.
extern "C" double probe_flops(int threads, std::int64_t rounds) {
  std::atomic<float> sink{0};  // without a use of the results, there would be no work
  const double seconds = seconds_together(threads, [&](int) { sink.store(multiply_add(rounds, 0.5f)); });
  return static_cast<double>(probe_flop_a_round) * static_cast<double>(rounds) * threads / seconds;
}

/// Bytes a second, read and written ones together, of the best of some copies of `bytes` bytes.
extern "C" double probe_copy(int threads, std::int64_t bytes, int repeats) {
  std::vector<char> source(bytes, 1), target(bytes, 2);
  const std::int64_t part = bytes / threads;
  double best = 0;
  for (int i = 0; i < repeats; ++i) {
    const double seconds = seconds_together(
        threads, [&](int thread) { std::memcpy(&target[thread * part], &source[thread * part], part); });
    const double speed = 2.0 * static_cast<double>(part) * threads / seconds;
    if (speed > best) best = speed;
  }
  return best;
}
