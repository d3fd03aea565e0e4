// Shadow memory: what is remembered of each word of 4 bytes.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "sim/check/order.h"

namespace imgrec::sim::check {

constexpr unsigned word_bytes = 4;

struct Cell {
  Access write{};
  Access reads[2]{};       // since then, by different threads
  std::uint8_t valid = 0;  // which bytes belong to an array
  std::uint8_t written = 0;
  bool copying = false;     // the write is an asynchronous copy that its thread has not waited for
  std::uint32_t split = 0;  // 1 + the place of the bytes' own cells, once there was a narrower access
};
static_assert(sizeof(Cell) == 32);

/// The cells of one piece of memory, which the owner provides zeroed.
struct Shadow {
  Cell* cells = nullptr;
  std::vector<std::array<Cell, word_bytes>> split;
};

enum class Touch : std::uint8_t { read, write, copy };

constexpr std::uint8_t byte_mask(unsigned first, unsigned count) {
  return static_cast<std::uint8_t>(((1u << count) - 1u) << first);
}

/// An earlier access that is not ordered with this one; stamp 0: there is none.
struct Conflict {
  Access access{};
  bool was_write = false, was_copy = false;
};

/// Compares an access with what is remembered of the word, and remembers it.
Conflict touch_split(Shadow& shadow, Cell& cell, Touch touch, std::uint8_t mask, Access who, const ThreadClock& thread);

inline Conflict touch_cell(Cell& cell, Touch touch, Access who, const ThreadClock& thread) {
  Conflict found;
  if (__builtin_expect(cell.copying || !is_ordered(cell.write, thread), 0)) found = {cell.write, true, cell.copying};
  if (touch == Touch::read) {
    Access& first = cell.reads[0];
    if (first.party == who.party || is_ordered(first, thread))
      first = who;
    else
      cell.reads[1] = who;
    return found;
  }
  for (const Access& read : cell.reads)
    if (!is_ordered(read, thread)) found = {read, false, false};
  cell.write = who;
  cell.reads[0] = cell.reads[1] = {};
  cell.copying = touch == Touch::copy;
  return found;
}

inline Conflict touch_word(Shadow& shadow, Cell& cell, Touch touch, std::uint8_t mask, Access who,
                           const ThreadClock& thread) {
  if (__builtin_expect(mask != 0xF || cell.split, 0)) return touch_split(shadow, cell, touch, mask, who, thread);
  return touch_cell(cell, touch, who, thread);
}

/// A copy has arrived: from now on it is a write by the thread that waited for it.
void land_copy(Shadow& shadow, Cell& cell, Access who);

}  // namespace imgrec::sim::check
