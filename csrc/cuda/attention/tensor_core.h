// The steps of the tensor-core kernels: tiles in shared memory, and products by warps (mma.sync m16n8k16, summed in
// float32).
//
// A block of four warps owns 64 rows, each warp 16 of them, and streams tiles of columns past them: forward and the
// gradient of queries have queries as rows and keys as columns, the gradient of keys and values the other way round.
// Either way a warp makes a strip of 16 scores by the tile's columns in registers, turns it into weights there, and
// uses these as the left operand of the next product: in the layouts of mma.sync a result is a left operand after
// rounding to 16 bits, without another lane's help. So weights never go through memory, and a warp waits for others
// only when tiles come and go.
//
// Tiles in shared memory have rows of Size = 64, 128 or 256 elements, zero past the head's size. The 16-byte chunk c of
// row r lies at chunk c ^ r % 8: the eight rows of one matrix of ldmatrix, which have one c, lie in different banks.
#pragma once

#include "cuda/arch/async_copy.h"
#include "cuda/arch/matrix_io.h"
#include "cuda/arch/mma.h"
#include "cuda/arch/pack.h"
#include "cuda/attention/problem.h"

namespace imgrec::cuda {

constexpr int warp_rows = 16, block_rows = 64, tensor_core_threads = 128;
constexpr float log2_e = 1.4426950408889634f, log_2 = 0.6931471805599453f;

__device__ __forceinline__ int lane_number() { return static_cast<int>(threadIdx.x) % 32; }
__device__ __forceinline__ int warp_number() { return static_cast<int>(threadIdx.x) / 32; }

/// The chunks of one row, from the tile's beginning. A lane that asks for chunks 0, 2, 4... or 1, 3, 5... says which
/// with `odd`; what differs between its chunks is then known to the compiler but for four values, and the lane keeps no
/// more addresses than these.
template <int Size>
struct ChunkRow {
  int begin, swizzle;

  __device__ __forceinline__ explicit ChunkRow(int row, int odd = 0) : begin(row * Size), swizzle(odd ^ (row & 7)) {}

  __device__ __forceinline__ int at(int chunk) const { return begin + (chunk & ~7) * 8 + ((chunk & 7) ^ swizzle) * 8; }
};

/// Starts to copy a tile of Rows rows, zero past the last one and past `size` columns. Where rows are not aligned to 16
/// bytes they are copied at once, element by element.
template <int Size, int Rows, class T>
__device__ __forceinline__ void load_tile(T* to, const RowTile<const T>& rows, int size, bool aligned) {
  const int chunks = (size + 15) / 16 * 2;  // products go in steps of 16 columns
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < Rows * (Size / 8); i += tensor_core_threads) {
    const int row = i / (Size / 8), chunk = i % (Size / 8);
    if (chunk >= chunks) continue;
    const T* from = rows.data + row * rows.stride + chunk * 8;
    T* at = to + ChunkRow<Size>(row).at(chunk);
    if (aligned) {
      const bool exists = row < rows.count && chunk * 8 < size;
      copy_async_or_zero<16>(at, exists ? from : rows.data, exists);
    } else {
      Pack<T, 8> pack;
#pragma unroll
      for (int k = 0; k < 8; ++k) pack.values[k] = row < rows.count && chunk * 8 + k < size ? from[k] : narrow<T>(0.0f);
      store_pack(at, pack);
    }
  }
}

/// strip[n] += 16 rows of `left` times rows 8 n ... 8 n + 7 of `right`, both of `size` columns.
template <int Size, int Columns, class T>
__device__ __forceinline__ void multiply_tiles(float (&strip)[Columns / 8][4], const T* left, const T* right,
                                               int size) {
  const int lane = lane_number();
  const ChunkRow<Size> left_row(lane % 16, lane / 16), right_row(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int k = 0; k < Size / 16; ++k) {
    if (k * 16 < size) {
      std::uint32_t a[4];
      ldmatrix_x4(a, left + left_row.at(2 * k));
#pragma unroll
      for (int n = 0; n < Columns / 16; ++n) {
        std::uint32_t b[4];
        ldmatrix_x4(b, right + n * 16 * Size + right_row.at(2 * k));
        mma_m16n8k16<T>(strip[2 * n], a, {b[0], b[1]});
        mma_m16n8k16<T>(strip[2 * n + 1], a, {b[2], b[3]});
      }
    }
  }
}

/// sums[n] += the strip of 16 x Rows, rounded to T, times columns first + 8 n ... first + 8 n + 7 of `tile`, of which
/// there are `size`; first is a multiple of 64.
template <int Size, int Columns, int Rows, class T>
__device__ __forceinline__ void multiply_strip(float (&sums)[Columns / 8][4], const float (&strip)[Rows / 8][4],
                                               const T* tile, int first, int size) {
  const ChunkRow<Size> row(lane_number() % 16, lane_number() / 16);
#pragma unroll
  for (int k = 0; k < Rows / 16; ++k) {
    const std::uint32_t a[4] = {pack_halves<T>(strip[2 * k][0], strip[2 * k][1]),
                                pack_halves<T>(strip[2 * k][2], strip[2 * k][3]),
                                pack_halves<T>(strip[2 * k + 1][0], strip[2 * k + 1][1]),
                                pack_halves<T>(strip[2 * k + 1][2], strip[2 * k + 1][3])};
#pragma unroll
    for (int n = 0; n < Columns / 16; ++n) {
      if (first + n * 16 < size) {
        std::uint32_t b[4];
        ldmatrix_x4_transposed(b, tile + k * 16 * Size + first + row.at(2 * n));
        mma_m16n8k16<T>(sums[2 * n], a, {b[0], b[1]});
        mma_m16n8k16<T>(sums[2 * n + 1], a, {b[2], b[3]});
      }
    }
  }
}

/// The row and column of element `i` of matrix `n` of a strip, in this lane.
__device__ __forceinline__ int strip_row(int i) { return lane_number() / 4 + i / 2 * 8; }
__device__ __forceinline__ int strip_column(int n, int i) { return 8 * n + 2 * (lane_number() % 4) + i % 2; }

/// One bit for each of a lane's elements of a strip, element i of matrix n at 4 n + i. `test(row, column)` is compiled
/// once or twice and not for each element, which would take registers and minutes of compilation.
template <int Columns, class Test>
__device__ __forceinline__ std::uint32_t strip_bits(const Test& test) {
  std::uint32_t bits = 0;
#pragma unroll 2
  for (int k = 0; k < Columns / 2; ++k)
    bits |= static_cast<std::uint32_t>(test(strip_row(k % 4), strip_column(k / 4, k % 4))) << k;
  return bits;
}

/// What the rules say of a lane's elements of a strip, a bit each. It is asked before the products, while registers are
/// free.
struct StripRules {
  std::uint32_t visible, kept;
};

/// `row` and `column` are the strip's place among queries and keys, or among keys and queries where these are the rows.
template <bool KeysAreRows, int Columns, class T>
__device__ __forceinline__ StripRules strip_rules(const ScoreMatrix<T>& matrix, std::int64_t row, std::int64_t column) {
  const std::int64_t query = KeysAreRows ? column : row, key = KeysAreRows ? row : column;
  constexpr int queries = KeysAreRows ? Columns : warp_rows, keys = KeysAreRows ? warp_rows : Columns;
  StripRules rules{0xFFFFFFFFu, 0xFFFFFFFFu};
  if (!matrix.plain(query, queries, key, keys))
    rules.visible = strip_bits<Columns>(
        [&](int r, int c) { return matrix.visible(query + (KeysAreRows ? c : r), key + (KeysAreRows ? r : c)); });
  if (matrix.rules.state) {
    Dropout dropout(matrix.rules);
    rules.kept = strip_bits<Columns>([&](int r, int c) {
      const std::int64_t first = matrix.row(query + (KeysAreRows ? c : r)) * matrix.rules.shape.keys;
      return dropout.keeps(first + key + (KeysAreRows ? r : c));
    });
  }
  return rules;
}

/// From products to scores in units of log 2; -inf where a key is not seen.
template <bool KeysAreRows, int Columns, class T>
__device__ __forceinline__ void finish_scores(float (&scores)[Columns / 8][4], const ScoreMatrix<T>& matrix,
                                              std::int64_t row, std::int64_t column, std::uint32_t visible) {
  const float scale = static_cast<float>(matrix.rules.scale) * log2_e;
#pragma unroll
  for (int n = 0; n < Columns / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = visible >> (4 * n + i) & 1 ? scores[n][i] * scale : -infinity();
  if (!matrix.additive()) return;
  const std::int64_t* strides = matrix.rules.mask_strides;
  const std::int64_t row_step = strides[KeysAreRows ? 3 : 2], column_step = strides[KeysAreRows ? 2 : 3];
  const std::int64_t first_row = row + strip_row(0), first_column = column + strip_column(0, 0);
  // One pointer that moves along the strip: an address for each element would not fit into the registers.
  const T* added = static_cast<const T*>(matrix.rules.mask) +
                   matrix.mask_at(KeysAreRows ? first_column : first_row, KeysAreRows ? first_row : first_column);
#pragma unroll
  for (int n = 0; n < Columns / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (visible >> (4 * n + i) & 1) scores[n][i] += widen(added[i / 2 * 8 * row_step + i % 2 * column_step]) * log2_e;
    added += 8 * column_step;
  }
}

/// Writes sums times the row's factor to columns first ... of 16 rows. They go through `staging`, 16 rows of Size that
/// this warp alone uses, so that whole 16-byte chunks are written.
template <int Size, int Columns, class T>
__device__ __forceinline__ void write_strip(const RowTile<T>& to, T* staging, const float (&sums)[Columns / 8][4],
                                            const float (&factors)[2], int first, int size, bool aligned) {
  __syncwarp();
#pragma unroll
  for (int n = 0; n < Columns / 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      T* at = staging + ChunkRow<Size>(strip_row(2 * half)).at(n) + strip_column(0, 0);
      *reinterpret_cast<std::uint32_t*>(at) =
          pack_halves<T>(sums[n][2 * half] * factors[half], sums[n][2 * half + 1] * factors[half]);
    }
  __syncwarp();
  for (int i = lane_number(); i < warp_rows * (Columns / 8); i += 32) {
    const int row = i / (Columns / 8), chunk = i % (Columns / 8), column = first + chunk * 8;
    if (row >= to.count || column >= size) continue;
    const auto pack = load_pack<T, 8>(staging + ChunkRow<Size>(row).at(chunk));
    T* at = to.data + row * to.stride + column;
    if (aligned)
      store_pack(at, pack);
    else
#pragma unroll
      for (int k = 0; k < 8; ++k)
        if (column + k < size) at[k] = pack.values[k];
  }
}

/// Whether all rows begin at multiples of 16 bytes and hold whole chunks.
inline bool aligned_rows(const Array& array) {
  constexpr std::int64_t chunk = 8;
  bool aligned = aligned_for_packs(array.data) && array.shape[3] % chunk == 0;
  for (int i = 0; i < 3; ++i) aligned = aligned && (array.shape[i] <= 1 || array.strides[i] % chunk == 0);
  return aligned;
}

/// On the host: calls body(T{}, Constant<Size>) with the 16-bit type and the least Size that holds both heads.
template <class Body>
void for_tensor_core(DType dtype, const AttentionShape& shape, Body&& body) {
  const std::int64_t size = shape.head_size > shape.value_size ? shape.head_size : shape.value_size;
  const auto sized = [&](auto type) {
    if (size <= 64) return body(type, Constant<64>{});
    if (size <= 128) return body(type, Constant<128>{});
    return body(type, Constant<256>{});
  };
  return dtype == DType::float16 ? sized(Float16{}) : sized(BFloat16{});
}

}  // namespace imgrec::cuda
