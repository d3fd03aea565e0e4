// The product at the heart of every time step, as one block computes it: a tile of samples' states times the weights of
// the block's hidden units (tiling.h), sums (rows, columns) = state (rows, width) weights (columns, width)^T.
//
//   - float32, float64: a thread sums a square of 4 samples and 4 columns; k_lanes neighbouring lanes take turns along
//     the depth, 16 bytes each, and add up by shuffles. Exact products, in one order.
//   - float16, bfloat16: a warp sums 16 samples and 32 columns with mma.m16n8k8 in tf32. A 16-bit weight is a tf32
//     number; a float32 state is the sum of two, rounded to 22 bits, so that nothing is lost that a float16 or bfloat16
//     result could show, and gradients beyond float16's range pass. The warps that are left take parts of the depth.
//
// Which k stands where in a fragment is free, so that a lane reads 4 neighbours: columns t and t + 4 of the fragments
// of two k8 steps are k = 4t, 4t + 1 and 4t + 2, 4t + 3 of 16.
#pragma once

#include "cuda/arch/async_copy.h"
#include "cuda/arch/mma.h"
#include "cuda/arch/pack.h"
#include "cuda/recurrent/tiling.h"

namespace imgrec::cuda::recurrent {

template <class T>
class StateProduct {
 public:
  using Number = Compute<T>;

  /// `packed` (groups, columns, width) are the weights in global memory, `memory` the block's shared memory.
  __device__ StateProduct(const Tiling& tiling, const T* packed, void* memory)
      : tiling_(tiling),
        packed_(packed + static_cast<std::int64_t>(blockIdx.x % tiling.groups) * tiling.columns * tiling.width),
        slices_((tiling.width + tiling.slice - 1) / tiling.slice),
        weights_(static_cast<T*>(memory)),
        weight_stride_(row_stride<T>(tiling.resident ? tiling.width : tiling.slice)),
        state_stride_(row_stride<T>(tiling.slice)) {
    state_ = reinterpret_cast<Number*>(weights_ + tiling.columns * weight_stride_ * (tiling.resident ? 1 : 2));
    sums_ = state_ + tiling.rows * state_stride_ * (tiling.resident && slices_ == 1 ? 1 : 2);
    carry_ = sums_ + tiling.parts * tiling.rows * tiling.columns;
    if (tiling.resident) copy_rows(weights_, weight_stride_, packed_, tiling.columns, tiling.columns, tiling.width);
  }

  /// Where the block may keep block_rows times units numbers, if carry_on_chip.
  __device__ Number* carry() const { return carry_; }

  /// Sums for the `given` first of a tile's samples, whose states (.., width) begin at `from`. All threads call it.
  __device__ void compute(const Number* from, int given) {
    Accumulator accumulator(*this);
    request(from, given, 0);
    for (int slice = 0; slice < slices_; ++slice) {
      if (slice + 1 < slices_) {
        request(from, given, slice + 1);
        copy_async_wait<1>();
      } else {
        copy_async_wait<0>();
      }
      __syncthreads();
      const int begin = slice * tiling_.slice, buffer = slice % 2;
      const T* weights = tiling_.resident ? weights_ + begin : weights_ + buffer * tiling_.columns * weight_stride_;
      accumulator.add(state_ + buffer * tiling_.rows * state_stride_, weights, depth_of(slice));
      if (slice + 1 < slices_) __syncthreads();  // before the buffer is filled again
    }
    accumulator.store(sums_);
    __syncthreads();
  }

  __device__ Number sum(int row, int column) const {
    Number sum = sums_[row * tiling_.columns + column];
    for (int part = 1; part < tiling_.parts; ++part)
      sum += sums_[(part * tiling_.rows + row) * tiling_.columns + column];
    return sum;
  }

 private:
  /// A square of sums for each thread, in ordinary arithmetic.
  class ThreadSquare {
   public:
    __device__ explicit ThreadSquare(const StateProduct& product)
        : product_(product),
          column_squares_(product.tiling_.columns / 4),
          row_squares_(product.tiling_.rows / 4),
          k_lanes_(depth_parts<T>(column_squares_ * row_squares_, 32)) {
      const int square = static_cast<int>(threadIdx.x) / k_lanes_;
      k_lane_ = static_cast<int>(threadIdx.x) % k_lanes_;
      column_ = square % column_squares_;
      row_ = square / column_squares_;
    }

    __device__ void add(const Number* state, const T* weights, int depth) {
      constexpr int width = pack_width<Number>;
      if (row_ >= row_squares_) return;
      for (int k = k_lane_ * width; k < depth; k += k_lanes_ * width) {
        Pack<Number, width> h[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          h[i] = load_pack<Number, width>(state + (row_ + i * row_squares_) * product_.state_stride_ + k);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const auto w = load_pack<T, width>(weights + (column_ + j * column_squares_) * product_.weight_stride_ + k);
#pragma unroll
          for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int v = 0; v < width; ++v) sums_[i][j] += h[i].values[v] * w.values[v];
        }
      }
    }

    __device__ void store(Number* sums) {
      for (int offset = k_lanes_ / 2; offset > 0; offset /= 2)
#pragma unroll
        for (int i = 0; i < 16; ++i) sums_[i / 4][i % 4] += __shfl_xor_sync(0xFFFFFFFFu, sums_[i / 4][i % 4], offset);
      if (k_lane_ != 0 || row_ >= row_squares_) return;
#pragma unroll
      for (int i = 0; i < 16; ++i)
        sums[(row_ + i / 4 * row_squares_) * product_.tiling_.columns + column_ + i % 4 * column_squares_] =
            sums_[i / 4][i % 4];
    }

   private:
    const StateProduct& product_;
    int column_squares_, row_squares_, k_lanes_, k_lane_, column_, row_;
    Number sums_[4][4] = {};
  };

  /// A square of sums for each warp, on tensor cores.
  class WarpSquare {
   public:
    __device__ explicit WarpSquare(const StateProduct& product) : product_(product) {
      const int warp = static_cast<int>(threadIdx.x) / 32, row_squares = product.tiling_.rows / 16;
      const int square = warp / product.tiling_.parts;
      part_ = warp % product.tiling_.parts;
      row_ = square % row_squares * 16;
      column_ = square / row_squares * 32;
      group_ = static_cast<int>(threadIdx.x) % 32 / 4;
      t_ = static_cast<int>(threadIdx.x) % 4;
    }

    __device__ void add(const float* state, const T* weights, int depth) {
      const float* rows = state + (row_ + group_) * product_.state_stride_ + 4 * t_;
      const T* columns = weights + (column_ + group_) * product_.weight_stride_ + 4 * t_;
      if (column_ >= product_.tiling_.columns) return;
      for (int k = part_ * 16; k < depth; k += product_.tiling_.parts * 16) {
        std::uint32_t high[2][4], low[2][4];
        split(high, low, load_pack<float, 4>(rows + k), load_pack<float, 4>(rows + 8 * product_.state_stride_ + k));
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (column_ + 8 * j >= product_.tiling_.columns) continue;
          const auto w = load_pack<T, 4>(columns + 8 * j * product_.weight_stride_ + k);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const std::uint32_t b[2] = {__float_as_uint(widen(w.values[2 * i])),
                                        __float_as_uint(widen(w.values[2 * i + 1]))};
            mma_m16n8k8_tf32(sums_[j], low[i], b);
            mma_m16n8k8_tf32(sums_[j], high[i], b);
          }
        }
      }
    }

    __device__ void store(float* sums) const {
      const int columns = product_.tiling_.columns;
      float* to = sums + (part_ * product_.tiling_.rows + row_ + group_) * columns + column_ + 2 * t_;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (column_ + 8 * j >= columns) continue;
        store_pack(to + 8 * j, Pack<float, 2>{sums_[j][0], sums_[j][1]});
        store_pack(to + 8 * columns + 8 * j, Pack<float, 2>{sums_[j][2], sums_[j][3]});
      }
    }

   private:
    /// Both fragments of two k8 steps: each number as the sum of two that have tf32's bits.
    static __device__ void split(std::uint32_t (&high)[2][4], std::uint32_t (&low)[2][4], const Pack<float, 4>& upper,
                                 const Pack<float, 4>& lower) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float value = i % 2 == 0 ? upper.values[i / 2] : lower.values[i / 2];
        const std::uint32_t rounded = high[i / 4][i % 4] = to_tf32(value);
        low[i / 4][i % 4] = to_tf32(value - __uint_as_float(rounded));
      }
    }

    const StateProduct& product_;
    int part_, row_, column_, group_, t_;
    float sums_[4][4] = {};
  };

  using Accumulator = std::conditional_t<on_tensor_cores<T>, WarpSquare, ThreadSquare>;

  __device__ int depth_of(int slice) const { return min(tiling_.slice, tiling_.width - slice * tiling_.slice); }

  /// Copies rows of `depth` elements that stand `width` apart; those from `given` on become zeros.
  template <class E>
  __device__ void copy_rows(E* to, int stride, const E* from, int rows, int given, int depth) const {
    constexpr int width = pack_width<E>;
    const int packs = depth / width;
    for (int i = threadIdx.x; i < rows * packs; i += block_threads) {
      const int row = i / packs, k = i % packs * width;
      const bool valid = row < given;
      copy_async_or_zero<16>(to + row * stride + k,
                             from + (valid ? static_cast<std::int64_t>(row) * tiling_.width + k : 0), valid);
    }
  }

  /// Asks for one slice of the state, and of the weights where they stream.
  __device__ void request(const Number* from, int given, int slice) const {
    const int begin = slice * tiling_.slice, buffer = slice % 2, depth = depth_of(slice);
    copy_rows(state_ + buffer * tiling_.rows * state_stride_, state_stride_, from + begin, tiling_.rows, given, depth);
    if (!tiling_.resident)
      copy_rows(weights_ + buffer * tiling_.columns * weight_stride_, weight_stride_, packed_ + begin, tiling_.columns,
                tiling_.columns, depth);
    copy_async_commit();
  }

  const Tiling& tiling_;
  const T* packed_;
  int slices_;
  T* weights_;
  int weight_stride_, state_stride_;
  Number *state_, *sums_, *carry_;
};

}  // namespace imgrec::cuda::recurrent
