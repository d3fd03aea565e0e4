// The main loop of exact matrix products on the ordinary arithmetic units, for plain and implicit products alike:
//
//   C(m, n) = sum over k of A(m, k) B(k, n)        m < rows, n < columns, first <= k < last
//
// A block computes one Tile of C; float is computed in float, double in double, 16-bit numbers in float. The sum over k
// runs in the order of k, without splitting, so a result depends on nothing but its operands.
//
// Sources, tiles and epilogues: product.h. Here a source tells the number at (line, k) in the type that is computed in:
//
//   Number load(const Line&, const Depth&) const;      // padding is a zero here
//
// Mapping: 16 x 16 threads, each with a square of sums in registers. Slices of k go through two buffers in shared
// memory: while one is multiplied, the next is under way from global memory in registers; one barrier a slice.
//
//   SimtTile<float, 4>   64 x 64 x 16   17,408 bytes of shared memory      SimtTile<double, 4>   34,816 bytes
//   SimtTile<float, 8>  128 x 128 x 8   16,896 bytes
#pragma once

#include "cuda/gemm/product.h"

namespace imgrec::cuda {

template <class T, int Side>
struct SimtTile {
  using Number = T;
  static constexpr int side = Side;                                           // of a thread's square of sums
  static constexpr int threads = 256, shared_bytes = 0;                       // dynamic
  static constexpr int blocks_at_once = Side == 4 && sizeof(T) == 4 ? 2 : 1;  // on a multiprocessor
  static constexpr int rows = 16 * Side, columns = 16 * Side, depth = 64 / Side;
};

/// A slice of one operand on its way from global to shared memory: what one thread carries of it.
template <class Tile, class Source>
class SliceCarrier {
 public:
  using Number = typename Tile::Number;
  using Buffer = Number[Tile::depth][Tile::rows + 4];  // + 4: stores along k meet half the bank conflicts

  __device__ SliceCarrier(const Source& source, std::int64_t first_line, std::int64_t lines) : source_(source) {
    for (int i = 0; i < held_lines; ++i) {
      const std::int64_t index = first_line + line_of(i);
      inside_[i] = index < lines;
      lines_[i] = source.line(inside_[i] ? index : first_line);
    }
  }

  __device__ void fetch(std::int64_t k, std::int64_t last) {
#pragma unroll
    for (int i = 0; i < count / held_lines; ++i) {
      const std::int64_t mine = k + depth_of(i);
      const auto depth = source_.depth(mine < last ? mine : k);
#pragma unroll
      for (int j = 0; j < held_lines; ++j)
        values_[i * held_lines + j] = inside_[j] && mine < last ? source_.load(lines_[j], depth) : Number(0);
    }
  }

  __device__ void store(Buffer& buffer) const {
#pragma unroll
    for (int i = 0; i < count / held_lines; ++i)
#pragma unroll
      for (int j = 0; j < held_lines; ++j) buffer[depth_of(i)][line_of(j)] = values_[i * held_lines + j];
  }

 private:
  static_assert(Tile::rows == Tile::columns);
  static constexpr int count = Tile::rows * Tile::depth / Tile::threads;
  static constexpr int held_lines = Source::depth_contiguous ? count : 1;

  // A warp reads along what is contiguous: 16 of depth and two lines at a time, or 32 lines.
  static __device__ int line_of(int i) {
    return Source::depth_contiguous ? threadIdx.x / Tile::depth + i * (Tile::threads / Tile::depth)
                                    : threadIdx.x % Tile::rows;
  }
  static __device__ int depth_of(int i) {
    return Source::depth_contiguous ? threadIdx.x % Tile::depth
                                    : threadIdx.x / Tile::rows + i * (Tile::threads / Tile::rows);
  }

  using Line = decltype(std::declval<const Source&>().line(0));
  const Source& source_;
  Line lines_[held_lines];
  bool inside_[held_lines];
  Number values_[count];
};

/// A thread's lines of a slice: runs of 4, each read with one access, 64 lines apart.
template <class Tile, class Buffer>
__device__ __forceinline__ void read_fragment(typename Tile::Number (&fragment)[Tile::side], const Buffer& buffer,
                                              int k, int thread) {
#pragma unroll
  for (int run = 0; run < Tile::side / 4; ++run) {
    const auto pack = load_pack<typename Tile::Number, 4>(&buffer[k][run * 64 + thread * 4]);
#pragma unroll
    for (int i = 0; i < 4; ++i) fragment[run * 4 + i] = pack.values[i];
  }
}

template <class Tile, class A, class B, class Epilogue>
__device__ __forceinline__ void simt_product(const A& a, const B& b, const ProductExtent& extent,
                                             const TileGrid::Place& place, const Epilogue& epilogue) {
  using Number = typename Tile::Number;
  constexpr int side = Tile::side;
  using Buffer = typename SliceCarrier<Tile, A>::Buffer;
  SHARED(Buffer, a_slices, [2]);
  SHARED(Buffer, b_slices, [2]);
  SliceCarrier<Tile, A> a_carrier(a, place.row, extent.rows);
  SliceCarrier<Tile, B> b_carrier(b, place.column, extent.columns);
  const int row = threadIdx.x / 16, column = threadIdx.x % 16;
  Number sums[side][side] = {};

  if (extent.first < extent.last) {
    a_carrier.fetch(extent.first, extent.last);
    b_carrier.fetch(extent.first, extent.last);
    a_carrier.store(a_slices[0]);
    b_carrier.store(b_slices[0]);
  }
  __syncthreads();
  int current = 0;
  for (std::int64_t k = extent.first; k < extent.last; k += Tile::depth, current ^= 1) {
    const bool more = k + Tile::depth < extent.last;
    if (more) {
      a_carrier.fetch(k + Tile::depth, extent.last);
      b_carrier.fetch(k + Tile::depth, extent.last);
    }
#pragma unroll
    for (int i = 0; i < Tile::depth; ++i) {
      Number a_fragment[side], b_fragment[side];
      read_fragment<Tile>(a_fragment, a_slices[current], i, row);
      read_fragment<Tile>(b_fragment, b_slices[current], i, column);
#pragma unroll
      for (int m = 0; m < side; ++m)
#pragma unroll
        for (int n = 0; n < side; ++n) sums[m][n] += a_fragment[m] * b_fragment[n];
    }
    if (more) {
      a_carrier.store(a_slices[current ^ 1]);
      b_carrier.store(b_slices[current ^ 1]);
    }
    __syncthreads();
  }

#pragma unroll
  for (int m = 0; m < side; ++m) {
    const std::int64_t to_row = place.row + m / 4 * 64 + row * 4 + m % 4;
#pragma unroll
    for (int n = 0; n < side; n += 4) {
      const std::int64_t to_column = place.column + n / 4 * 64 + column * 4;
      const Number run[4] = {sums[m][n], sums[m][n + 1], sums[m][n + 2], sums[m][n + 3]};
      const std::int64_t count = extent.columns - to_column;
      if (to_row < extent.rows && count > 0) epilogue(to_row, to_column, count < 4 ? static_cast<int>(count) : 4, run);
    }
  }
}

}  // namespace imgrec::cuda
