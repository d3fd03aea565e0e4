// What a running kernel learns about itself, and where its shared memory lies.
#include "sim/runtime.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "sim/hooks.h"
#include "sim/multiprocessor.h"

namespace imgrec::sim {
namespace {

constexpr std::int64_t static_limit = 48 << 10;
constexpr std::uint32_t alignment = 128;
constexpr std::uint32_t matrix_row_bytes = 16;

Thread& me() { return Multiprocessor::here().current(); }

std::string kilobytes(std::int64_t bytes) { return std::to_string((bytes + 1023) / 1024) + " KB"; }

SharedArray& place_array(Block& block, const void* key, const char* name, std::uint32_t bytes, Site site) {
  Multiprocessor& here = Multiprocessor::here();
  block.shared_used = (block.shared_used + alignment - 1) / alignment * alignment + bytes;
  const std::int64_t all_static = block.shared_used - here.launch().shared_bytes;
  if (all_static > static_limit || block.shared_used > here.max_shared_bytes())
    fail(("the block needs " + kilobytes(block.shared_used) + " of shared memory with " + name + ", " +
          kilobytes(all_static) + " of it in static arrays; a block may have " + kilobytes(here.max_shared_bytes()) +
          ", and static arrays 48 KB")
             .c_str(),
         site);
  block.arrays.push_back({key, name, block.window_used, bytes});
  std::memset(block.window + block.window_used, 0xFF, bytes);
  hooks::shared_array_placed(block, block.window_used, bytes);
  block.window_used += (bytes + gap_bytes + alignment - 1) / alignment * alignment;
  return block.arrays.back();
}

}  // namespace

void fail(const char* what, Site site) { Multiprocessor::here().fail(std::string(what) + " at " + place_of(site)); }

void spin_hint(const char* name, Site site) { Multiprocessor::here().spin(name, site); }

void progress() { Multiprocessor::here().progress(); }

int lane() { return me().lane(); }

std::uint32_t running_lanes() { return me().block->warps[me().number / warp_lanes].running; }

unsigned cluster_rank() {
  Multiprocessor& here = Multiprocessor::here();
  return static_cast<unsigned>(here.current().block - here.cluster());
}

unsigned cluster_blocks() { return Multiprocessor::here().launch().cluster; }

void* shared_array(const void* key, const char* name, std::size_t bytes, Site site) {
  Block& block = *me().block;
  for (const SharedArray& array : block.arrays)
    if (array.key == key) return block.window + array.offset;
  return block.window + place_array(block, key, name, static_cast<std::uint32_t>(bytes), site).offset;
}

void* dynamic_shared() { return me().block->window; }

std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(static_cast<const unsigned char*>(pointer) - Multiprocessor::here().arena());
}

void* shared_pointer(std::uint32_t address) { return Multiprocessor::here().arena() + address; }

void require_shared(const char* name, const void* pointer, std::uint32_t alignment, Site site) {
  if (!Multiprocessor::here().in_arena(pointer))
    fail((std::string(name) + ": the address is not in shared memory").c_str(), site);
  if (shared_address(pointer) % alignment != 0)
    fail((std::string(name) + ": the shared address is not a multiple of " + std::to_string(alignment)).c_str(), site);
}

void load_matrix_row(const char* name, void* to, const void* shared, Site site) {
  require_shared(name, shared, matrix_row_bytes, site);
  hooks::shared_accessed(shared, matrix_row_bytes, false, site);
  std::memcpy(to, shared, matrix_row_bytes);
}

void store_matrix_row(const char* name, void* shared, const void* from, Site site) {
  require_shared(name, shared, matrix_row_bytes, site);
  hooks::shared_accessed(shared, matrix_row_bytes, true, site);
  std::memcpy(shared, from, matrix_row_bytes);
}

void* map_shared_rank(const void* pointer, unsigned rank, Site site) {
  require_shared("map_shared_rank", pointer, 1, site);
  if (rank >= cluster_blocks()) fail("map_shared_rank: the cluster has no block of this rank", site);
  return Multiprocessor::here().cluster()[rank].window + shared_address(pointer) % window_bytes;
}

}  // namespace imgrec::sim
