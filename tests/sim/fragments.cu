// The register layouts of tensor-core instructions: every lane's registers go in and come out as they are.
#include "cuda/arch/matrix_io.h"
#include "cuda/arch/mma.h"
#include "tests/sim/program.h"

namespace imgrec {
namespace {

using namespace cuda;
using program::DeviceArray;

enum class Kind { bfloat16, float16, tf32 };

template <Kind kind>
__global__ void mma_kernel(float* d, const std::uint32_t* a, const std::uint32_t* b) {
  const unsigned lane = threadIdx.x;
  std::uint32_t my_a[4], my_b[2];
  float my_d[4];
  for (int i = 0; i < 4; ++i) my_a[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) my_b[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) my_d[i] = d[lane * 4 + i];
  if constexpr (kind == Kind::bfloat16)
    mma_m16n8k16<BFloat16>(my_d, my_a, my_b);
  else if constexpr (kind == Kind::float16)
    mma_m16n8k16<Float16>(my_d, my_a, my_b);
  else
    mma_m16n8k8_tf32(my_d, my_a, my_b);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = my_d[i];
}

template <Kind kind>
void run_mma(const program::Arguments& arguments) {
  DeviceArray<std::uint32_t> a(32 * 4), b(32 * 2);
  DeviceArray<float> d(32 * 4);
  a.read();
  b.read();
  d.read();
  LAUNCH(mma_kernel<kind>, arguments.context, {.blocks = 1, .threads = 32}, d.data(), a.data(), b.data());
  d.write();
}

CASE(mma_bfloat16) { run_mma<Kind::bfloat16>(arguments); }
CASE(mma_float16) { run_mma<Kind::float16>(arguments); }
CASE(mma_tf32) { run_mma<Kind::tf32>(arguments); }

__global__ void convert_kernel(std::uint32_t* y, const float* x, int size) {
  for (int i = static_cast<int>(threadIdx.x); i < size; i += 32) {
    y[i] = to_tf32(x[i]);
    y[size + i] = pack_halves<BFloat16>(x[i], x[size - 1 - i]);
    y[2 * size + i] = pack_halves<Float16>(x[i], x[size - 1 - i]);
  }
}

CASE(convert) {
  const int size = arguments.numbers.at(0);
  DeviceArray<float> x(size);
  DeviceArray<std::uint32_t> y(3 * size);
  x.read();
  LAUNCH(convert_kernel, arguments.context, {.blocks = 1, .threads = 32}, y.data(), x.data(), size);
  y.write();
}

constexpr int pitch = 12;  // words from row to row: 48 bytes, so that a row's place is not its number

template <int matrices, bool transposed>
__global__ void ldmatrix_kernel(std::uint32_t* registers, const std::uint32_t* rows) {
  SHARED(std::uint32_t, memory, [32 * pitch]);
  const unsigned lane = threadIdx.x;
  for (int i = 0; i < 4; ++i) memory[lane * pitch + i] = rows[lane * 4 + i];
  __syncthreads();
  std::uint32_t mine[matrices];
  const void* row = lane < matrices * 8 ? &memory[lane * pitch] : nullptr;
  if constexpr (matrices == 1)
    transposed ? ldmatrix_x1_transposed(mine, row) : ldmatrix_x1(mine, row);
  else if constexpr (matrices == 2)
    transposed ? ldmatrix_x2_transposed(mine, row) : ldmatrix_x2(mine, row);
  else
    transposed ? ldmatrix_x4_transposed(mine, row) : ldmatrix_x4(mine, row);
  for (int i = 0; i < matrices; ++i) registers[lane * matrices + i] = mine[i];
}

template <int matrices, bool transposed>
void run_ldmatrix(const program::Arguments& arguments) {
  DeviceArray<std::uint32_t> rows(32 * 4), registers(32 * matrices);
  rows.read();
  LAUNCH((ldmatrix_kernel<matrices, transposed>), arguments.context, {.blocks = 1, .threads = 32}, registers.data(),
         rows.data());
  registers.write();
}

CASE(ldmatrix_x1) { run_ldmatrix<1, false>(arguments); }
CASE(ldmatrix_x2) { run_ldmatrix<2, false>(arguments); }
CASE(ldmatrix_x4) { run_ldmatrix<4, false>(arguments); }
CASE(ldmatrix_x1_transposed) { run_ldmatrix<1, true>(arguments); }
CASE(ldmatrix_x2_transposed) { run_ldmatrix<2, true>(arguments); }
CASE(ldmatrix_x4_transposed) { run_ldmatrix<4, true>(arguments); }

template <int matrices>
__global__ void stmatrix_kernel([[maybe_unused]] std::uint32_t* rows, [[maybe_unused]] const std::uint32_t* registers) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  SHARED(std::uint32_t, memory, [32 * pitch]);
  const unsigned lane = threadIdx.x;
  std::uint32_t mine[matrices];
  for (int i = 0; i < matrices; ++i) mine[i] = registers[lane * matrices + i];
  void* row = lane < matrices * 8 ? &memory[lane * pitch] : nullptr;
  if constexpr (matrices == 2)
    stmatrix_x2(row, mine);
  else
    stmatrix_x4(row, mine);
  __syncthreads();
  if (lane < matrices * 8)
    for (int i = 0; i < 4; ++i) rows[lane * 4 + i] = memory[lane * pitch + i];
#endif
}

template <int matrices>
void run_stmatrix(const program::Arguments& arguments) {
  DeviceArray<std::uint32_t> rows(matrices * 8 * 4), registers(32 * matrices);
  registers.read();
  LAUNCH(stmatrix_kernel<matrices>, arguments.context, {.blocks = 1, .threads = 32}, rows.data(), registers.data());
  rows.write();
}

CASE(stmatrix_x2) { run_stmatrix<2>(arguments); }
CASE(stmatrix_x4) { run_stmatrix<4>(arguments); }

__global__ void misaligned_ldmatrix_kernel(std::uint32_t* registers) {
  SHARED(std::uint32_t, memory, [33 * 4]);
  std::uint32_t mine[4];
  ldmatrix_x4(mine, &memory[threadIdx.x * 4 + (threadIdx.x == 5)]);
  registers[threadIdx.x] = mine[0];
}

CASE(misaligned_ldmatrix) {
  DeviceArray<std::uint32_t> registers(32);
  LAUNCH(misaligned_ldmatrix_kernel, arguments.context, {.blocks = 1, .threads = 32}, registers.data());
}

}  // namespace
}  // namespace imgrec
