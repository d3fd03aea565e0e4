// Global memory: what a kernel may touch is what the operation was given, its parameters, and, to be read, the
// constants of its own module.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "ops/memory.h"
#include "sim/check/checker.h"
#include "sim/check/given.h"

namespace imgrec::sim::check {
namespace {

/// Given arrays that overlap, as one.
struct Region {
  std::uintptr_t begin, end;
  bool writable;
  std::vector<GivenArray> arrays;
  std::unique_ptr<Cell[]> cells;  // only where it is written; otherwise there is nothing that could go wrong
  Shadow shadow;
};

std::vector<Region> regions;                // those that are written first
std::uint8_t region_of_site[1 << 16] = {};  // the last one that each instruction touched, as a guess

void add_regions(bool writable) {
  std::vector<GivenArray> arrays;
  for (const GivenArray& array : given_arrays())
    if (array.writable == writable && array.end > array.begin) arrays.push_back(array);
  std::sort(arrays.begin(), arrays.end(), [](const GivenArray& a, const GivenArray& b) { return a.begin < b.begin; });
  const std::size_t first = regions.size();
  for (const GivenArray& array : arrays) {
    if (regions.size() == first || array.begin >= regions.back().end)
      regions.push_back({array.begin / word_bytes * word_bytes, array.end, writable, {}, nullptr, {}});
    regions.back().end = std::max(regions.back().end, array.end);
    regions.back().arrays.push_back(array);
  }
}

bool holds(const GivenArray& array, const Request& request) {
  return request.address >= array.begin && request.address + request.size <= array.end;
}

bool holds(const Region& region, const Request& request) {
  return request.address >= region.arrays.front().begin && request.address + request.size <= region.end;
}

Region* find_region(const Request& request) {
  const std::size_t guess = region_of_site[request.site];
  if (guess < regions.size() && holds(regions[guess], request)) return &regions[guess];
  for (Region& region : regions)
    if (holds(region, request)) {
      region_of_site[request.site] = static_cast<std::uint8_t>(&region - regions.data());
      return &region;
    }
  return nullptr;
}

std::string place_text(const GivenArray& array, std::uintptr_t address) {
  return "array " + std::to_string(array.number) + " of the operation (" + std::to_string(array.end - array.begin) +
         " bytes) + " + std::to_string(address - array.begin) + " bytes";
}

std::string place_text(const Region& region, const Request& request) {
  for (const GivenArray& array : region.arrays)
    if (holds(array, request)) return place_text(array, request.address);
  return place_text(region.arrays.front(), request.address);
}

/// Where an address lies that belongs to nothing: beside the array that is next to it, if one is near.
std::string stray_text(std::uintptr_t address) {
  constexpr std::uintptr_t near = 1 << 16;
  std::uintptr_t least = near;
  char number[40];
  std::snprintf(number, sizeof(number), "0x%zx", static_cast<std::size_t>(address));
  std::string text = "address " + std::string(number) + ", which the operation was not given (the host's, or nobody's)";
  for (const GivenArray& array : given_arrays()) {
    const std::string name = "array " + std::to_string(array.number) + " of the operation, which has " +
                             std::to_string(array.end - array.begin) + " bytes";
    const bool past = address >= array.begin;
    const std::uintptr_t distance = !past ? array.begin - address : address > array.end ? address - array.end : 0;
    if (distance >= least) continue;
    least = distance;
    text = std::to_string(distance) + (past ? " bytes past the end of " : " bytes before ") + name;
  }
  return text;
}

bool is_parameter(const Request& request) {
  const auto begin = reinterpret_cast<std::uintptr_t>(state.launch->parameters);
  return request.address >= begin && request.address + request.size <= begin + state.launch->parameter_bytes;
}

/// Touches that no given array answers for.
void touch_elsewhere(ObservedThread& thread, const Request& request) {
  if (!state.options.bounds) return;
  const Module& module = this_module();
  const bool constant = request.address >= module.begin && request.address + request.size <= module.end;
  if (request.touch == Touch::read && (constant || is_parameter(request))) return;
  stop("out of bounds", text_of(request) + " of global memory, " + stray_text(request.address),
       thread.at(request.site));
}

/// Memory from the pool holds the poison until something is written; numbers of one byte may look like it by chance.
bool is_poison(std::uintptr_t address, unsigned bytes) {
  unsigned char seen[word_bytes];
  std::memcpy(seen, reinterpret_cast<const void*>(address), bytes);
  for (unsigned i = 0; i + 1 < bytes; i += 2) {
    std::uint16_t half;
    std::memcpy(&half, seen + i, sizeof(half));
    if (half != memory_poison) return false;
  }
  return bytes > 1;
}

void touch_written_region(ObservedThread& thread, const Request& request, Region& region) {
  const std::uintptr_t end = request.address + request.size;
  for (std::uintptr_t word = request.address / word_bytes * word_bytes; word < end; word += word_bytes) {
    const std::uintptr_t first = std::max(word, request.address), last = std::min(word + word_bytes, end);
    const auto bytes = static_cast<unsigned>(last - first);
    const std::uint8_t mask = byte_mask(static_cast<unsigned>(first - word), bytes);
    Cell& cell = region.shadow.cells[(word - region.begin) / word_bytes];
    if (state.options.uninit && request.touch == Touch::read && (cell.written & mask) == 0 && is_poison(first, bytes))
      report("uninitialised", thread.at(request.site), [&] {
        return text_of(request) + " of global memory that nothing was written to, " + place_text(region, request);
      });
    if (request.touch != Touch::read) cell.written |= mask;
    if (!state.options.race || !request.plain) continue;
    const Conflict conflict = touch_word(region.shadow, cell, request.touch, mask, thread.at(request.site), thread);
    if (conflict.access.stamp)
      report_race(thread, request, conflict, [&] { return "global memory, " + place_text(region, request); });
  }
}

}  // namespace

void begin_global(const Launch&) {
  regions.clear();
  add_regions(true);
  for (Region& region : regions) {
    const std::size_t words = (region.end - region.begin + word_bytes - 1) / word_bytes;
    region.cells.reset(new Cell[words]);
    region.shadow.cells = region.cells.get();
  }
  add_regions(false);
}

void touch_global(ObservedThread& thread, const Request& request) {
  Region* const region = find_region(request);
  if (!region) return touch_elsewhere(thread, request);
  require_aligned(thread, request);
  if (profiling)
    thread.log.push_back({request.address, request.size, request.site, false, request.touch != Touch::read});
  if (region->writable) return touch_written_region(thread, request, *region);
  if (request.touch != Touch::read && state.options.bounds)
    stop("read-only", text_of(request) + " to an input, " + place_text(*region, request), thread.at(request.site));
}

}  // namespace imgrec::sim::check
