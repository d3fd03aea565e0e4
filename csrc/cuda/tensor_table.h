// Lists of arrays as parameters of a kernel: one launch works on as many as a table holds, and reads where they are
// from the constant memory that its parameters lie in.
//
// Each array is cut into chunks, one for each block of the grid: the first blocks take those of the first array, and so
// on. A block finds its array by a binary search.
#pragma once

#include <array>

#include "cuda/arch/pack.h"

namespace imgrec::cuda {

constexpr int table_places = 64;

/// What stands at the same place of the lists belongs together and has as many elements as the first list's.
template <int Lists>
struct TensorTable {
  void* arrays[Lists][table_places];  // null where the list is empty
  std::int64_t sizes[table_places];
  int first_chunks[table_places];
  int places;

  template <class T>
  __device__ __forceinline__ T* at(int list, int place) const {
    return static_cast<T*>(arrays[list][place]);
  }
};
static_assert(sizeof(TensorTable<5>) <= 3584, "with what else a kernel is given it must fit the 4 KB of parameters");

/// What a block works on: `size` elements of the arrays at a place, from `begin` on.
struct TensorChunk {
  int place;
  std::int64_t begin, size;

  template <int Lists>
  __device__ __forceinline__ TensorChunk(const TensorTable<Lists>& table, std::int64_t elements) {
    const int chunk = static_cast<int>(blockIdx.x);
    int low = 0, high = table.places;  // the last place whose chunks begin here or before: empty arrays have none
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (table.first_chunks[middle] <= chunk ? low : high) = middle;
    }
    place = low;
    begin = (chunk - table.first_chunks[low]) * elements;
    size = min(elements, table.sizes[low] - begin);
  }

  /// Calls body(i, width) for runs that cover [0, size) once, over the threads of the block: as for_each_pack.
  template <class T, class Body>
  __device__ __forceinline__ void for_each_pack(bool aligned, Body&& body) const {
    constexpr int width = pack_width<T>;
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const std::int64_t packed = aligned ? size / width * width : 0;
    for (std::int64_t i = thread * width; i < packed; i += threads * width) body(i, Constant<width>{});
    for (std::int64_t i = packed + thread; i < size; i += threads) body(i, Constant<1>{});
  }
};

/// Calls launch(table, blocks, first_chunk) for tables that hold all arrays of the lists, cut into chunks of so many
/// elements; `first_chunk` counts those of the tables before.
template <std::size_t Lists, class Launch>
void for_each_table(const std::array<Arrays, Lists>& lists, std::int64_t elements, Launch&& launch) {
  const std::size_t count = lists[0].size();
  std::int64_t first_chunk = 0;
  for (std::size_t first = 0; first < count; first += table_places) {
    TensorTable<static_cast<int>(Lists)> table{};
    std::int64_t chunks = 0;
    for (std::size_t i = first; i < std::min<std::size_t>(count, first + table_places); ++i) {
      const int place = table.places++;
      for (std::size_t list = 0; list < Lists; ++list)
        table.arrays[list][place] = lists[list].empty() ? nullptr : lists[list][i].data;
      table.sizes[place] = lists[0][i].size();
      table.first_chunks[place] = static_cast<int>(chunks);
      chunks += (table.sizes[place] + elements - 1) / elements;
    }
    launch(table, static_cast<unsigned>(chunks), first_chunk);
    first_chunk += chunks;
  }
}

}  // namespace imgrec::cuda
