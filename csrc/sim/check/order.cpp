#include "sim/check/order.h"

#include <algorithm>

namespace imgrec::sim::check {
namespace {

Stamp advance(ThreadClock& thread) {
  const Stamp published = thread.stamp++;
  thread.block->newest = std::max(thread.block->newest, thread.stamp);
  return published;
}

/// A thread's knowledge as its own, to be changed.
Knowledge& own_knowledge(ThreadClock& thread) {
  if (!thread.knowledge)
    thread.knowledge = std::make_shared<Knowledge>();
  else if (thread.knowledge.use_count() > 1)
    thread.knowledge = std::make_shared<Knowledge>(*thread.knowledge);
  return *thread.knowledge;
}

}  // namespace

Knowledge::OfBlock& Knowledge::of(std::uint32_t block) {
  for (OfBlock& one : blocks_)
    if (one.block == block) return one;
  return blocks_.emplace_back(OfBlock{block, 0, nullptr});
}

bool Knowledge::has(std::uint32_t block, std::uint32_t thread, Stamp stamp) const {
  for (const OfBlock& one : blocks_)
    if (one.block == block) return stamp < one.base || (one.threads && (*one.threads)[thread] >= stamp);
  return false;
}

void Knowledge::join(const Knowledge& other) {
  for (const OfBlock& theirs : other.blocks_) {
    OfBlock& mine = of(theirs.block);
    mine.base = std::max(mine.base, theirs.base);
    if (!theirs.threads || mine.threads == theirs.threads) continue;
    if (!mine.threads) {
      mine.threads = theirs.threads;
      continue;
    }
    auto joined = std::make_shared<std::vector<Stamp>>(*mine.threads);
    for (std::size_t i = 0; i < joined->size(); ++i) (*joined)[i] = std::max((*joined)[i], (*theirs.threads)[i]);
    mine.threads = std::move(joined);
  }
}

void Knowledge::learn(std::uint32_t block, Stamp base) {
  OfBlock& mine = of(block);
  mine.base = std::max(mine.base, base);
}

void Knowledge::learn(std::uint32_t block, std::uint32_t threads, std::uint32_t thread, Stamp stamp) {
  OfBlock& mine = of(block);
  if (!mine.threads)
    mine.threads = std::make_shared<std::vector<Stamp>>(threads, 0);
  else if (mine.threads.use_count() > 1)
    mine.threads = std::make_shared<std::vector<Stamp>>(*mine.threads);
  (*mine.threads)[thread] = std::max((*mine.threads)[thread], stamp);
}

void Knowledge::forget(std::uint32_t block) {
  std::erase_if(blocks_, [&](const OfBlock& one) { return one.block == block; });
}

bool knows(const ThreadClock& thread, Access access) {
  if (!thread.knowledge) return false;
  const BlockClock& mine = *thread.block;
  const auto party = static_cast<std::uint32_t>(access.party);
  return thread.knowledge->has(party / mine.threads, party % mine.threads, static_cast<Stamp>(access.stamp));
}

void release(ThreadClock& thread, Knowledge& into) {
  const BlockClock& block = *thread.block;
  if (thread.knowledge) into.join(*thread.knowledge);
  into.learn(block.number, block.base);
  into.learn(block.number, block.threads, thread.number(), advance(thread));
}

void acquire(ThreadClock& thread, const Knowledge& from) {
  if (!from.empty()) own_knowledge(thread).join(from);
}

void synchronise(ThreadClock* const* threads, int count) {
  // Lanes that meet time and again share one object, which no one else has.
  std::shared_ptr<Knowledge> shared = threads[0]->knowledge;
  bool same = shared && shared.use_count() == count + 1;
  for (int i = 0; i < count; ++i) same = same && threads[i]->knowledge == shared;
  if (!same) {
    shared = std::make_shared<Knowledge>();
    for (int i = 0; i < count; ++i)
      if (threads[i]->knowledge && (i == 0 || threads[i]->knowledge != threads[i - 1]->knowledge))
        shared->join(*threads[i]->knowledge);
  }
  for (int i = 0; i < count; ++i) {
    const BlockClock& block = *threads[i]->block;
    shared->learn(block.number, block.threads, threads[i]->number(), advance(*threads[i]));
    if (!same) threads[i]->knowledge = shared;
  }
}

void synchronise_block(BlockClock& block, ThreadClock* const* threads) {
  std::shared_ptr<Knowledge> of_others;
  const Knowledge* last = nullptr;
  for (std::uint32_t i = 0; i < block.threads; ++i) {
    const auto& mine = threads[i]->knowledge;
    if (!mine || mine.get() == last) continue;
    if (!of_others) of_others = std::make_shared<Knowledge>();
    of_others->join(*mine);
    last = mine.get();
  }
  if (of_others) {
    of_others->forget(block.number);
    if (of_others->empty()) of_others = nullptr;
  }
  block.base = ++block.newest;
  for (std::uint32_t i = 0; i < block.threads; ++i) {
    threads[i]->stamp = block.base;
    threads[i]->knowledge = of_others;
  }
}

}  // namespace imgrec::sim::check
