// Shared memory: bounds, alignment, what was never written, races.
#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <string>

#include "sim/check/checker.h"

namespace imgrec::sim::check {
namespace {

std::size_t mapped_words = 0;
std::vector<std::uint32_t> used_words;  // of each slot's window, by the block before

void map_cells(std::size_t words) {
  if (words <= mapped_words) return;
  if (state.shared.cells) munmap(state.shared.cells, mapped_words * sizeof(Cell));
  void* memory =
      mmap(nullptr, words * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  state.shared.cells = static_cast<Cell*>(memory);
  mapped_words = words;
  used_words.assign(words * word_bytes / window_bytes, 0);
}

/// "'tile' + 12", or where the address lies beside the array that is next to it.
std::string place_text(const Block& block, std::uint32_t offset) {
  const auto dynamic = static_cast<std::uint32_t>(state.launch->shared_bytes);
  std::string name = "the dynamic shared memory";
  std::uint32_t begin = 0, bytes = dynamic;
  for (const SharedArray& array : block.arrays)
    if (offset >= array.offset || (begin == 0 && dynamic == 0)) {
      name = "'" + std::string(array.name) + "'";
      begin = array.offset;
      bytes = array.bytes;
    }
  if (offset < begin) return std::to_string(begin - offset) + " bytes before " + name;
  if (offset < begin + bytes) return name + " + " + std::to_string(offset - begin) + " bytes";
  return std::to_string(offset - begin - bytes) + " bytes past the end of " + name + ", which has " +
         std::to_string(bytes) + " bytes";
}

void check_word(ObservedThread& thread, const Request& request, std::uint32_t address, std::uint8_t mask) {
  Cell& cell = state.shared.cells[address / word_bytes];
  const auto where = [&] { return place_text(*state.blocks[address / window_bytes].block, address % window_bytes); };
  if (state.options.bounds && (cell.valid & mask) != mask)
    stop("out of bounds", text_of(request) + " of shared memory, " + where(), thread.at(request.site));
  if (request.touch != Touch::read) {
    cell.written |= mask;
  } else if (state.options.uninit && (cell.written & mask) != mask) {
    report("uninitialised", thread.at(request.site),
           [&] { return text_of(request) + " of shared memory that nothing was written to, " + where(); });
    cell.written |= mask;
  }
  if (!state.options.race || !request.plain) return;
  const Conflict conflict = touch_word(state.shared, cell, request.touch, mask, thread.at(request.site), thread);
  if (conflict.access.stamp) report_race(thread, request, conflict, [&] { return "shared memory, " + where(); });
}

}  // namespace

void clear_shared(unsigned slot, std::int64_t dynamic_bytes) {
  map_cells(state.arena_bytes / word_bytes);
  const std::size_t first = std::size_t{slot} * (window_bytes / word_bytes);
  std::fill_n(state.shared.cells + first, used_words[slot], Cell{});
  used_words[slot] = 0;
  if (slot == 0) state.shared.split.clear();
  if (dynamic_bytes > 0)
    place_shared(static_cast<std::uint32_t>(first * word_bytes), static_cast<std::uint32_t>(dynamic_bytes));
}

void place_shared(std::uint32_t address, std::uint32_t bytes) {
  for (std::uint32_t byte = address; byte < address + bytes; byte += word_bytes)
    state.shared.cells[byte / word_bytes].valid = byte_mask(0, std::min(word_bytes, address + bytes - byte));
  std::uint32_t& used = used_words[address / window_bytes];
  // With the gap behind, where narrow accesses may have left traces.
  used = std::max(used, (address % window_bytes + bytes + word_bytes - 1) / word_bytes);
}

void touch_shared(ObservedThread& thread, const Request& request) {
  require_aligned(thread, request);
  const auto address = static_cast<std::uint32_t>(request.address - state.arena);
  if (state.options.bounds) {
    const std::uint32_t slot = address / window_bytes, cluster = state.launch->cluster;
    if (slot / cluster != thread.slot / cluster)
      stop("out of bounds", text_of(request) + " of another block's shared memory", thread.at(request.site));
  }
  if (profiling)
    thread.log.push_back({request.address, request.size, request.site, true, request.touch != Touch::read});
  const std::uint32_t end = address + request.size;
  for (std::uint32_t word = address / word_bytes * word_bytes; word < end; word += word_bytes) {
    const std::uint32_t first = std::max(word, address), last = std::min(word + word_bytes, end);
    check_word(thread, request, word, byte_mask(first - word, last - first));
  }
}

}  // namespace imgrec::sim::check
