// The main loop of matrix products on tensor cores, with the sources, tiles and epilogues of product.h:
//
//   C(m, n) = sum over k of A(m, k) B(k, n)        m < rows, n < columns, first <= k < last
//
// float16 and bfloat16 with mma.m16n8k16; float, rounded to tf32, with m16n8k8; sums in float32. Operands come in packs
// of 16 bytes along what is contiguous: the depth's extents or the lines' number must be multiples of a pack, and a
// source says
//
//   const T* data;                                             // any address that may be read
//   const T* find(const Line&, const Depth&) const;            // a pack, or null where there are zeros
//
// Mapping: 2 x Size warps, each with 16 Size x 32 results in registers.
//
//   TensorCoreTile<T, 4>   128 x 128, 8 warps, 4 slices of 16 KB: 64 KB of dynamic shared memory
//   TensorCoreTile<T, 2>    64 x  64, 4 warps, 4 slices of  8 KB: 32 KB
//
// A slice is 64 bytes of depth (32 or 16 numbers): two steps of mma. Three slices are on their way by cp.async while
// one is multiplied, with one barrier a slice. In shared memory it lies as in global memory, in rows of k or in rows of
// lines, and its 16-byte chunks are permuted within the rows, so that the 8 rows that ldmatrix reads at once lie in 8
// different groups of banks:
//
//   rows of 64 bytes of depth       chunk ^= line / 2 % 4      (two rows fill the 32 banks)
//   rows of lines, 16-bit           chunk ^= k % 8             (read by ldmatrix.trans)
//   rows of lines, float            chunk ^= k % 4 * 2         (read one by one: a lane each for 4 k x 8 lines)
//
// The results leave through shared memory, 16 rows of a warp at a time, so that its stores are runs of 32 columns.
#pragma once

#include "cuda/arch/async_copy.h"
#include "cuda/arch/matrix_io.h"
#include "cuda/arch/mma.h"
#include "cuda/gemm/product.h"

namespace imgrec::cuda {

template <class T, int Size>
struct TensorCoreTile {
  using Number = T;
  static constexpr int warp_rows = 16 * Size, warp_columns = 32;
  static constexpr int rows = 2 * warp_rows, columns = warp_columns * Size, threads = 64 * Size;
  static constexpr int row_bytes = 64, depth = row_bytes / sizeof(T), step = depth / 2, pack = 16 / sizeof(T);
  static constexpr int stages = 4, slice_bytes = (rows + columns) * row_bytes, shared_bytes = stages * slice_bytes;
  // On a multiprocessor: what bounds the registers.
  static constexpr int blocks_at_once = Size == 2 ? 4 : sizeof(T) == 2 ? 2 : 1;
  static_assert(rows == columns);
};

/// Where the numbers of one operand's slice lie in shared memory.
template <class Tile, bool DepthContiguous>
struct SliceLayout {
  using T = typename Tile::Number;

  /// The byte of (line, k), counted from the slice's first.
  static __device__ __forceinline__ int at(int line, int k) {
    if constexpr (DepthContiguous) {
      return line * Tile::row_bytes + ((k / Tile::pack) ^ (line / 2 % 4)) * 16 + k % Tile::pack * sizeof(T);
    } else {
      const int swizzle = sizeof(T) == 2 ? k % 8 : k % 4 * 2, row_bytes = Tile::rows * sizeof(T);
      return k * row_bytes + ((line / Tile::pack) ^ swizzle) * 16 + line % Tile::pack * sizeof(T);
    }
  }

  /// 16 lines x one step of k, as mma.sync wants A; B's two halves of 8 lines are registers 0 and 2, and 1 and 3.
  static __device__ __forceinline__ void load(std::uint32_t (&fragment)[4], const unsigned char* slice, int line, int k,
                                              int lane) {
    if constexpr (DepthContiguous) {
      ldmatrix_x4(fragment, slice + at(line + lane % 16, k + lane / 16 * Tile::pack));
    } else if constexpr (sizeof(T) == 2) {
      ldmatrix_x4_transposed(fragment, slice + at(line + lane / 8 % 2 * 8, k + lane / 16 * 8 + lane % 8));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        fragment[i] =
            *reinterpret_cast<const std::uint32_t*>(slice + at(line + i % 2 * 8 + lane / 4, k + i / 2 * 4 + lane % 4));
    }
    if constexpr (sizeof(T) == 4)
#pragma unroll
      for (std::uint32_t& number : fragment) number = to_tf32(__uint_as_float(number));
  }
};

/// One operand's slices on their way to shared memory: the packs that one thread starts.
template <class Tile, class Source>
class PackCarrier {
 public:
  __device__ PackCarrier(const Source& source, std::int64_t first_line, std::int64_t lines) : source_(source) {
    for (int i = 0; i < held_lines; ++i) {
      const std::int64_t index = first_line + line_of(i);
      inside_[i] = index < lines;
      lines_[i] = source.line(inside_[i] ? index : first_line);
    }
  }

  __device__ __forceinline__ void start(unsigned char* slice, std::int64_t k, std::int64_t last) const {
#pragma unroll
    for (int i = 0; i < count / held_lines; ++i) {
      const std::int64_t mine = k + depth_of(i);
      const auto depth = source_.depth(mine < last ? mine : k);
#pragma unroll
      for (int j = 0; j < held_lines; ++j) {
        const auto* from = inside_[j] && mine < last ? source_.find(lines_[j], depth) : nullptr;
        copy_async_or_zero<16>(slice + SliceLayout<Tile, along_depth>::at(line_of(j), depth_of(i)),
                               from ? from : source_.data, from != nullptr);
      }
    }
  }

 private:
  static constexpr bool along_depth = Source::depth_contiguous;
  static constexpr int count = Tile::rows * Tile::row_bytes / 16 / Tile::threads;
  static constexpr int held_lines = along_depth ? count : 1;
  static constexpr int packs = along_depth ? Tile::row_bytes / 16 : Tile::rows / Tile::pack;  // of a row

  static __device__ int line_of(int i) {
    return along_depth ? threadIdx.x / packs + i * (Tile::threads / packs) : threadIdx.x % packs * Tile::pack;
  }
  static __device__ int depth_of(int i) {
    return along_depth ? threadIdx.x % packs * Tile::pack : threadIdx.x / packs + i * (Tile::threads / packs);
  }

  using Line = decltype(std::declval<const Source&>().line(0));
  const Source& source_;
  Line lines_[held_lines];
  bool inside_[held_lines];
};

/// The results of one warp: Size x 4 fragments of 16 x 8.
template <int Size>
using WarpSums = float[Size][4][4];

/// sums += A B over one slice.
template <class Tile, class ALayout, class BLayout, int Size>
__device__ __forceinline__ void multiply_slice(WarpSums<Size>& sums, const unsigned char* a_slice,
                                               const unsigned char* b_slice, int first_row, int first_column) {
  using T = typename Tile::Number;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < Tile::depth; k += Tile::step) {
    std::uint32_t a[Size][4], b[2][4];
#pragma unroll
    for (int m = 0; m < Size; ++m) ALayout::load(a[m], a_slice, first_row + 16 * m, k, lane);
#pragma unroll
    for (int n = 0; n < 2; ++n) BLayout::load(b[n], b_slice, first_column + 16 * n, k, lane);
#pragma unroll
    for (int m = 0; m < Size; ++m)
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const std::uint32_t half[2] = {b[n / 2][n % 2], b[n / 2][n % 2 + 2]};
        if constexpr (sizeof(T) == 2)
          mma_m16n8k16<T>(sums[m][n], a[m], half);
        else
          mma_m16n8k8_tf32(sums[m][n], a[m], half);
      }
  }
}

/// Hands a warp's sums to the epilogue in runs of 4 columns, through shared memory of the warp's own.
template <class Tile, int Size, class Epilogue>
__device__ __forceinline__ void hand_over(const WarpSums<Size>& sums, unsigned char* shared, std::int64_t first_row,
                                          std::int64_t first_column, const ProductExtent& extent,
                                          const Epilogue& epilogue) {
  using Slab =
      float[16][40];  // 32 columns; a stride of 8 modulo 32 words keeps the fragments' stores free of conflicts
  const int lane = threadIdx.x % 32;
  Slab& slab = reinterpret_cast<Slab*>(shared)[threadIdx.x / 32];
  static_assert(sizeof(Slab) * (Tile::threads / 32) <= Tile::shared_bytes);
#pragma unroll
  for (int m = 0; m < Size; ++m) {
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        store_pack(&slab[lane / 4 + half * 8][n * 8 + lane % 4 * 2],
                   Pack<float, 2>{sums[m][n][half * 2], sums[m][n][half * 2 + 1]});
    __syncwarp();
#pragma unroll 1  // an activation is long
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 8 + i * 4, column = lane % 8 * 4;
      const auto run = load_pack<float, 4>(&slab[row][column]);
      const std::int64_t to_row = first_row + m * 16 + row, count = extent.columns - first_column - column;
      if (to_row < extent.rows && count > 0)
        epilogue(to_row, first_column + column, count < 4 ? static_cast<int>(count) : 4, run.values);
    }
    __syncwarp();
  }
}

template <class Tile, class A, class B, class Epilogue>
__device__ __forceinline__ void tensor_core_product(const A& a, const B& b, const ProductExtent& extent,
                                                    const TileGrid::Place& place, const Epilogue& epilogue) {
  using ALayout = SliceLayout<Tile, A::depth_contiguous>;
  using BLayout = SliceLayout<Tile, B::depth_contiguous>;
  constexpr int stages = Tile::stages, size = Tile::warp_rows / 16;
  DYN_SHARED(unsigned char, shared);
  const PackCarrier<Tile, A> a_carrier(a, place.row, extent.rows);
  const PackCarrier<Tile, B> b_carrier(b, place.column, extent.columns);
  const int warp = threadIdx.x / 32;
  const int warp_row = warp / size * Tile::warp_rows, warp_column = warp % size * Tile::warp_columns;
  const auto a_slice = [&](int stage) { return shared + stage * Tile::slice_bytes; };
  const auto b_slice = [&](int stage) { return a_slice(stage) + Tile::rows * Tile::row_bytes; };
  const auto start = [&](int stage, std::int64_t k) {
    if (k < extent.last) {
      a_carrier.start(a_slice(stage), k, extent.last);
      b_carrier.start(b_slice(stage), k, extent.last);
    }
    copy_async_commit();  // empty ones too: so a slice is always the same number of groups ago
  };

  WarpSums<size> sums = {};
#pragma unroll
  for (int i = 0; i < stages - 1; ++i) start(i, extent.first + i * Tile::depth);
  int current = 0;
  for (std::int64_t k = extent.first; k < extent.last; k += Tile::depth) {
    copy_async_wait<stages - 2>();
    __syncthreads();  // what others copied; and nobody reads the slice before this one any more
    start(current == 0 ? stages - 1 : current - 1, k + (stages - 1) * Tile::depth);
    multiply_slice<Tile, ALayout, BLayout>(sums, a_slice(current), b_slice(current), warp_row, warp_column);
    current = current + 1 == stages ? 0 : current + 1;
  }
  copy_async_wait<0>();
  __syncthreads();
  hand_over<Tile>(sums, shared, place.row + warp_row, place.column + warp_column, extent, epilogue);
}

}  // namespace imgrec::cuda
