// Kernels whose time on the simulator is watched (benchmarks/simulator.py). Each prints seconds of the best of its
// runs.
#include <algorithm>
#include <ctime>

#include "cuda/arch/grid.h"
#include "cuda/arch/matrix_io.h"
#include "cuda/arch/mma.h"
#include "cuda/arch/pack.h"
#include "cuda/arch/warp.h"
#include "tests/sim/program.h"

namespace imgrec {
namespace {

using namespace cuda;
using program::DeviceArray;

template <class Body>
void time(const program::Arguments& arguments, Body&& body) {
  double best = 1e9;
  for (int repeat = 0; repeat < arguments.numbers.at(0); ++repeat) {
    const std::clock_t start = std::clock();
    body();
    best = std::min(best, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  std::printf("%.9f\n", best);
}

__global__ void empty_kernel() {}

CASE(empty) {
  time(arguments, [&] { LAUNCH(empty_kernel, arguments.context, {.blocks = 1, .threads = 256}); });
}

/// c (n, n) = a b in tiles of 64 x 64 x 16; 256 threads compute 4 x 4 numbers each.
__global__ void sgemm_kernel(float* c, const float* a, const float* b, int n) {
  SHARED(float, tile_a, [16][68]);
  SHARED(float, tile_b, [16][68]);
  const int thread = static_cast<int>(threadIdx.x), row = thread / 16 * 4, column = thread % 16 * 4;
  const int first_row = static_cast<int>(blockIdx.y) * 64, first_column = static_cast<int>(blockIdx.x) * 64;
  float sum[4][4] = {};
  for (int k = 0; k < n; k += 16) {
    const auto from_a = load_pack<float, 4>(a + (first_row + thread / 4) * n + k + thread % 4 * 4);
    for (int i = 0; i < 4; ++i) tile_a[thread % 4 * 4 + i][thread / 4] = from_a.values[i];
    store_pack(&tile_b[thread / 16][thread % 16 * 4],
               load_pack<float, 4>(b + (k + thread / 16) * n + first_column + thread % 16 * 4));
    __syncthreads();
    for (int kk = 0; kk < 16; ++kk) {
      const auto left = load_pack<float, 4>(&tile_a[kk][row]), right = load_pack<float, 4>(&tile_b[kk][column]);
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sum[i][j] += left.values[i] * right.values[j];
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) c[(first_row + row + i) * n + first_column + column + j] = sum[i][j];
}

CASE(sgemm) {
  const int n = 256;
  DeviceArray<float> a(n * n), b(n * n), c(n * n);
  time(arguments, [&] {
    LAUNCH(sgemm_kernel, arguments.context, {.blocks = {n / 64, n / 64}, .threads = 256}, c.data(), a.data(), b.data(),
           n);
  });
}

/// A warp a row.
__global__ void softmax_kernel(float* y, const float* x, int columns) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  x += row * columns;
  y += row * columns;
  float largest = -INFINITY, sum = 0;
  for (int i = lane; i < columns; i += 32) largest = x[i] > largest ? x[i] : largest;
  largest = warp_max(largest);
  for (int i = lane; i < columns; i += 32) sum += y[i] = __expf(x[i] - largest);
  const float scale = 1 / warp_sum(sum);
  for (int i = lane; i < columns; i += 32) y[i] *= scale;
}

CASE(softmax) {
  const int rows = 512, columns = 1000;
  DeviceArray<float> x(rows * columns), y(rows * columns);
  time(arguments, [&] {
    LAUNCH(softmax_kernel, arguments.context, {.blocks = rows / 4, .threads = 128}, y.data(), x.data(), columns);
  });
}

/// c (n, n) float32 = a b in bfloat16, tiles of 64 x 64 x 32, four warps of 32 x 32 each.
__global__ void mma_gemm_kernel(float* c, const BFloat16* a, const BFloat16* b, int n) {
  SHARED(BFloat16, tile_a, [64][40]);
  SHARED(BFloat16, tile_b, [32][72]);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int first_row = static_cast<int>(blockIdx.y) * 64, first_column = static_cast<int>(blockIdx.x) * 64;
  const int row = warp / 2 * 32, column = warp % 2 * 32;
  float d[2][4][4] = {};
  for (int k = 0; k < n; k += 32) {
    for (int i = thread; i < 256; i += 128) {
      store_pack(&tile_a[i / 4][i % 4 * 8], load_pack<BFloat16, 8>(a + (first_row + i / 4) * n + k + i % 4 * 8));
      store_pack(&tile_b[i / 8][i % 8 * 8], load_pack<BFloat16, 8>(b + (k + i / 8) * n + first_column + i % 8 * 8));
    }
    __syncthreads();
    for (int kk = 0; kk < 32; kk += 16) {
      std::uint32_t fragment_a[2][4], fragment_b[4][2];
      for (int i = 0; i < 2; ++i) ldmatrix_x4(fragment_a[i], &tile_a[row + i * 16 + lane % 16][kk + lane / 16 * 8]);
      for (int j = 0; j < 4; ++j) ldmatrix_x2_transposed(fragment_b[j], &tile_b[kk + lane % 16][column + j * 8]);
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 4; ++j) mma_m16n8k16<BFloat16>(d[i][j], fragment_a[i], fragment_b[j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 4; ++j)
      for (int e = 0; e < 4; ++e)
        c[(first_row + row + i * 16 + lane / 4 + e / 2 * 8) * n + first_column + column + j * 8 + lane % 4 * 2 +
          e % 2] = d[i][j][e];
}

CASE(mma_gemm) {
  const int n = 256;
  DeviceArray<BFloat16> a(n * n), b(n * n);
  DeviceArray<float> c(n * n);
  time(arguments, [&] {
    LAUNCH(mma_gemm_kernel, arguments.context, {.blocks = {n / 64, n / 64}, .threads = 128}, c.data(), a.data(),
           b.data(), n);
  });
}

/// A 3 x 3 convolution (8, 16, 16, 32) -> (8, 16, 16, 64), padded: a thread computes one number.
__global__ void conv2d_kernel(float* y, const float* x, const float* weight) {
  constexpr int size = 16, channels = 32, out_channels = 64;
  const int out = static_cast<int>(threadIdx.x) % out_channels, quarter = static_cast<int>(threadIdx.x) / out_channels;
  const int pixel = static_cast<int>(blockIdx.x) * 4 + quarter;
  const int row = pixel / size % size, column = pixel % size, image = pixel / (size * size);
  float sum = 0;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      const int r = row + i - 1, c = column + j - 1;
      if (r < 0 || r >= size || c < 0 || c >= size) continue;
      const float* from = x + ((image * size + r) * size + c) * channels;
      const float* taps = weight + (i * 3 + j) * channels * out_channels + out;
      for (int k = 0; k < channels; ++k) sum += from[k] * taps[k * out_channels];
    }
  y[pixel * out_channels + out] = sum;
}

CASE(conv2d) {
  DeviceArray<float> x(8 * 16 * 16 * 32), weight(9 * 32 * 64), y(8 * 16 * 16 * 64);
  time(arguments, [&] {
    LAUNCH(conv2d_kernel, arguments.context, {.blocks = 8 * 16 * 16 / 4, .threads = 256}, y.data(), x.data(),
           weight.data());
  });
}

/// h (16, hidden) = tanh(h w) for some steps, as persistent recurrent kernels do it: each block keeps its columns of w.
__global__ void persistent_kernel(float* h, const float* w, unsigned* state, int hidden, int steps) {
  DYN_SHARED(float, weights);
  const int width = hidden / static_cast<int>(gridDim.x), first = static_cast<int>(blockIdx.x) * width;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int i = thread; i < hidden * width; i += threads) weights[i] = w[i / width * hidden + first + i % width];
  __syncthreads();
  for (int step = 0; step < steps; ++step) {
    const float* from = h + step % 2 * 16 * hidden;
    float* to = h + (1 - step % 2) * 16 * hidden;
    for (int i = thread; i < 16 * width; i += threads) {
      float sum = 0;
      for (int k = 0; k < hidden; ++k) sum += from[i / width * hidden + k] * weights[k * width + i % width];
      to[i / width * hidden + first + i % width] = tanhf(sum);
    }
    grid_barrier(state);
  }
}

CASE(persistent) {
  const int hidden = 128, steps = 64;
  DeviceArray<float> h(2 * 16 * hidden), w(hidden * hidden);
  DeviceArray<unsigned> state(1);
  time(arguments, [&] {
    LAUNCH(persistent_kernel, arguments.context,
           {.blocks = 4, .threads = 256, .shared_bytes = hidden * hidden, .cooperative = true}, h.data(), w.data(),
           state.data(), hidden, steps);
  });
}

}  // namespace
}  // namespace imgrec
