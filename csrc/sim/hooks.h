// Where the simulator tells the checkers what happens. In the module without them nothing is left of it.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "sim/launch.h"
#include "sim/runtime.h"

namespace imgrec::sim {

struct Block;
struct Thread;
struct Warp;

namespace hooks {

/// The time of one launch.
#ifdef IMGREC_SIM_CHECKED
class ObservedLaunch {
 public:
  static constexpr bool one_thread = true;  // so that every run finds the same
  explicit ObservedLaunch(const Launch& launch);
  ~ObservedLaunch();
  /// From the simulator's error, empty where there is none, what there is to say in the end.
  std::string conclude(const std::string& error);

 private:
  std::unique_lock<std::mutex> alone_;
};

/// A time in which the simulator, not the kernel, accesses memory.
class Unobserved {
 public:
  Unobserved();
  ~Unobserved();

 private:
  void* observed_;
};
#else
struct ObservedLaunch {
  static constexpr bool one_thread = false;
  explicit ObservedLaunch(const Launch&) {}
  std::string conclude(const std::string& error) { return error; }
};

struct Unobserved {
  Unobserved() {}
};
#endif

#ifdef IMGREC_SIM_CHECKED
#define IMGREC_SIM_HOOK(declaration) declaration;
#else
#define IMGREC_SIM_HOOK(declaration) \
  inline declaration {}
#endif

/// Blocks that run together, on stacks that kernels may use as they like.
IMGREC_SIM_HOOK(void blocks_begin(Block*, unsigned, std::int64_t, const unsigned char*, std::size_t))
IMGREC_SIM_HOOK(void blocks_end())
IMGREC_SIM_HOOK(void shared_array_placed(const Block&, std::uint32_t, std::uint32_t))
IMGREC_SIM_HOOK(void resumed(const Thread&))

// By the current thread.
IMGREC_SIM_HOOK(void barrier_arrived(int, std::uint32_t, bool, Site))
IMGREC_SIM_HOOK(void cluster_arrived(const Block&))
IMGREC_SIM_HOOK(void cluster_passed(const Block&))
IMGREC_SIM_HOOK(void shared_accessed(const void*, std::uint32_t, bool, Site))
IMGREC_SIM_HOOK(void copy_issued(void*, const void*, std::uint32_t, Site))
IMGREC_SIM_HOOK(void copies_committed())
IMGREC_SIM_HOOK(void copies_waited_for(std::uint32_t))
IMGREC_SIM_HOOK(void bulk_copy_issued(void*, const void*, std::uint32_t, std::uint32_t, Site))
IMGREC_SIM_HOOK(void mbarrier_made(std::uint32_t))
IMGREC_SIM_HOOK(void mbarrier_arrived(std::uint32_t))
IMGREC_SIM_HOOK(void mbarrier_arrived_after_copies(std::uint32_t))
IMGREC_SIM_HOOK(void mbarrier_passed(std::uint32_t))

/// All have come that the barrier with this number waits for; `waiting` leads the list of those that did not just
/// arrive.
IMGREC_SIM_HOOK(void barrier_completed(const Block&, int, std::uint32_t, const Thread*))
/// These lanes have met; `ordered`: what they did to memory before is known to all of them.
IMGREC_SIM_HOOK(void warp_met(const Warp&, std::uint32_t, bool, Site))

#undef IMGREC_SIM_HOOK

}  // namespace hooks
}  // namespace imgrec::sim
