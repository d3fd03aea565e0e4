// ldmatrix and stmatrix: 8 x 8 matrices of 16-bit numbers between shared memory and the fragments of mma.sync.
//
// Lane 8 m + r names row r of matrix m: 16 bytes in shared memory, aligned to 16. Register m of a lane holds two
// numbers of matrix m, the lower half first, with group = lane / 4 and t = lane % 4 (PTX ISA, "ldmatrix"):
//
//   plain         row group, columns 2t and 2t + 1
//   transposed    rows 2t and 2t + 1, column group
//
// So for mma_m16n8k16, with shared memory in rows of k:
//   a (16 x 16)   ldmatrix_x4, lane i names row i % 16, columns from i / 16 * 8
//   b (16 x 8)    stored as 8 columns of 16 (k fastest): ldmatrix_x2, lane i names column i % 8, k from i / 8 % 2 * 8
//                 stored as 16 rows of 8 (n fastest): ldmatrix_x2_transposed, lane i names row i % 16
#pragma once

#include "cuda/arch/address.h"

namespace imgrec::cuda {

#ifndef __CUDACC__
namespace simulated {

// Each lane reads and writes its own row, so that checkers see who touches what; the warp only trades registers. The
// simulator does the access, so that they see it at the caller's line.
union MatrixRow {
  std::uint32_t words[4];
  std::uint16_t halves[8];
};

struct MatrixArguments {
  MatrixRow row;
  std::uint32_t* registers;
};

template <int Matrices, bool Transposed>
void load_matrices(void* const* lanes, std::uint32_t) {
  const auto row = [&](int lane) -> const MatrixRow& { return static_cast<MatrixArguments*>(lanes[lane])->row; };
  for (int lane = 0; lane < sim::warp_lanes; ++lane) {
    std::uint32_t* registers = static_cast<MatrixArguments*>(lanes[lane])->registers;
    const int group = lane / 4, t = lane % 4;
    for (int m = 0; m < Matrices; ++m) {
      if constexpr (Transposed)
        registers[m] =
            row(m * 8 + t * 2).halves[group] | static_cast<std::uint32_t>(row(m * 8 + t * 2 + 1).halves[group]) << 16;
      else
        registers[m] = row(m * 8 + group).words[t];
    }
  }
}

template <int Matrices, bool Transposed>
void store_matrices(void* const* lanes, std::uint32_t) {
  const auto row = [&](int lane) -> MatrixRow& { return static_cast<MatrixArguments*>(lanes[lane])->row; };
  for (int lane = 0; lane < sim::warp_lanes; ++lane) {
    const std::uint32_t* registers = static_cast<MatrixArguments*>(lanes[lane])->registers;
    const int group = lane / 4, t = lane % 4;
    for (int m = 0; m < Matrices; ++m) {
      if constexpr (Transposed) {
        row(m * 8 + t * 2).halves[group] = static_cast<std::uint16_t>(registers[m]);
        row(m * 8 + t * 2 + 1).halves[group] = static_cast<std::uint16_t>(registers[m] >> 16);
      } else {
        row(m * 8 + group).words[t] = registers[m];
      }
    }
  }
}

template <int Matrices, bool Transposed>
void ldmatrix(const char* name, std::uint32_t (&registers)[Matrices], const void* row, Site site) {
  MatrixArguments mine{{}, registers};
  if (sim::lane() < Matrices * 8) sim::load_matrix_row(name, &mine.row, row, site);
  sim::warp_collective(name, load_matrices<Matrices, Transposed>, sim::all_lanes, &mine, true, site);
}

template <int Matrices, bool Transposed>
void stmatrix(const char* name, void* row, const std::uint32_t (&registers)[Matrices], Site site) {
  MatrixArguments mine{{}, const_cast<std::uint32_t*>(registers)};
  sim::warp_collective(name, store_matrices<Matrices, Transposed>, sim::all_lanes, &mine, true, site);
  if (sim::lane() < Matrices * 8) sim::store_matrix_row(name, row, &mine.row, site);
}

}  // namespace simulated
#endif

/// Loads one, two or four matrices. All 32 lanes call it; for fewer than four matrices only the first 8 or 16 rows are
/// read.
__device__ __forceinline__ void ldmatrix_x1(std::uint32_t (&r)[1], const void* row,
                                            [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(shared_address(row))
               : "memory");
#else
  simulated::ldmatrix<1, false>("ldmatrix_x1", r, row, site);
#endif
}

__device__ __forceinline__ void ldmatrix_x2(std::uint32_t (&r)[2], const void* row,
                                            [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
#else
  simulated::ldmatrix<2, false>("ldmatrix_x2", r, row, site);
#endif
}

__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], const void* row,
                                            [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#else
  simulated::ldmatrix<4, false>("ldmatrix_x4", r, row, site);
#endif
}

__device__ __forceinline__ void ldmatrix_x1_transposed(std::uint32_t (&r)[1], const void* row,
                                                       [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(shared_address(row))
               : "memory");
#else
  simulated::ldmatrix<1, true>("ldmatrix_x1_transposed", r, row, site);
#endif
}

__device__ __forceinline__ void ldmatrix_x2_transposed(std::uint32_t (&r)[2], const void* row,
                                                       [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
#else
  simulated::ldmatrix<2, true>("ldmatrix_x2_transposed", r, row, site);
#endif
}

__device__ __forceinline__ void ldmatrix_x4_transposed(std::uint32_t (&r)[4], const void* row,
                                                       [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#else
  simulated::ldmatrix<4, true>("ldmatrix_x4_transposed", r, row, site);
#endif
}

/// Stores two or four matrices; all 32 lanes call it. From compute capability 9.0: a kernel for less must not name it.
__device__ __forceinline__ void stmatrix_x2(void* row, const std::uint32_t (&r)[2],
                                            [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};"
               :
               : "r"(shared_address(row)), "r"(r[0]), "r"(r[1])
               : "memory");
#else
  simulated::stmatrix<2, false>("stmatrix_x2", row, r, site);
#endif
}

__device__ __forceinline__ void stmatrix_x4(void* row, const std::uint32_t (&r)[4],
                                            [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               :
               : "r"(shared_address(row)), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
#else
  simulated::stmatrix<4, false>("stmatrix_x4", row, r, site);
#endif
}

}  // namespace imgrec::cuda
