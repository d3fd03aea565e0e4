// Which accesses are ordered: a thread's stamp grows whenever it makes its work known to others, and what it knows of
// others is the last stamp of theirs that some chain of synchronisation has brought to it (vector clocks; Flanagan and
// Freund, "FastTrack", 2009). Barriers of whole blocks, the most frequent, only raise the block's base: what happened
// below it is known to all of its threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "sim/check/report.h"

namespace imgrec::sim::check {

using Stamp = std::uint32_t;

/// For some threads, the last of their stamps that is known.
class Knowledge {
 public:
  bool has(std::uint32_t block, std::uint32_t thread, Stamp stamp) const;
  void join(const Knowledge& other);
  /// All threads of a block, below `base`.
  void learn(std::uint32_t block, Stamp base);
  void learn(std::uint32_t block, std::uint32_t threads, std::uint32_t thread, Stamp stamp);
  void forget(std::uint32_t block);
  bool empty() const { return blocks_.empty(); }
  void clear() { blocks_.clear(); }

 private:
  struct OfBlock {
    std::uint32_t block;
    Stamp base = 0;
    std::shared_ptr<std::vector<Stamp>> threads;  // shared until it is changed; null: nothing beyond `base`
  };
  OfBlock& of(std::uint32_t block);

  std::vector<OfBlock> blocks_;
};

struct BlockClock {
  std::uint32_t number = 0;       // in the launch
  std::uint32_t first_party = 0;  // of its threads
  std::uint32_t threads = 0;
  Stamp base = 1, newest = 1;
};

struct ThreadClock {
  std::uint32_t party = 0;
  Stamp stamp = 1;
  BlockClock* block = nullptr;
  std::shared_ptr<Knowledge> knowledge;  // beyond the block's base; shared by lanes that know the same; may be null

  std::uint32_t number() const { return party - block->first_party; }
};

bool knows(const ThreadClock& thread, Access access);

/// Whether an earlier access happened before all that the thread does now.
inline bool is_ordered(Access access, const ThreadClock& thread) {
  const BlockClock& block = *thread.block;
  if (static_cast<std::uint32_t>(access.party) - block.first_party < block.threads) {
    if (access.stamp < block.base || access.party == thread.party) return true;
  } else if (access.stamp == 0) {
    return true;
  }
  return knows(thread, access);
}

/// What the thread has done and knows becomes known to whoever acquires `into`.
void release(ThreadClock& thread, Knowledge& into);
void acquire(ThreadClock& thread, const Knowledge& from);

/// All of these threads learn what any of them knows.
void synchronise(ThreadClock* const* threads, int count);
void synchronise_block(BlockClock& block, ThreadClock* const* threads);

}  // namespace imgrec::sim::check
