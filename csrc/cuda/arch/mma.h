// mma.sync: products of small matrices, spread over the registers of a warp, on tensor cores. d += a b, summed in
// float32.
//
// Who holds what, from the PTX ISA ("Matrix Fragments for mma.m16n8k16" and "mma.m16n8k8"), with group = lane / 4 and
// t = lane % 4. A register of 16-bit numbers holds two, the lower half first.
//
//   m16n8k16   a (16 x 16)   a[0]: row group,     columns 2t, 2t + 1      a[2]: row group,     columns 2t + 8, 2t + 9
//                            a[1]: row group + 8, columns 2t, 2t + 1      a[3]: row group + 8, columns 2t + 8, 2t + 9
//              b (16 x 8)    b[0]: rows 2t, 2t + 1, column group          b[1]: rows 2t + 8, 2t + 9, column group
//   m16n8k8    a (16 x 8)    a[0]: row group, column t                    a[2]: row group, column t + 4
//                            a[1]: row group + 8, column t                a[3]: row group + 8, column t + 4
//              b (8 x 8)     b[0]: row t, column group                    b[1]: row t + 4, column group
//   both       d (16 x 8)    d[0], d[1]: row group, columns 2t, 2t + 1    d[2], d[3]: row group + 8, the same columns
//
// The order in which a tensor core adds is not documented; the simulator adds in the order of k.
#pragma once

#include "cuda/arch/numbers.h"

namespace imgrec::cuda {

/// Two 16-bit numbers in one register, each rounded to nearest, ties to even.
template <class T>
__device__ __forceinline__ std::uint32_t pack_halves(float low, float high) {
#ifdef __CUDACC__
  std::uint32_t packed;
  if constexpr (std::is_same_v<T, BFloat16>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return narrow<T>(low).bits | static_cast<std::uint32_t>(narrow<T>(high).bits) << 16;
#endif
}

/// A float32 rounded to the 10 bits of fraction that tf32 has; ties away from zero.
__device__ __forceinline__ std::uint32_t to_tf32(float value) {
#ifdef __CUDACC__
  std::uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return rounded;
#else
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFFFFFFu;
  return (bits + 0x1000u) & ~0x1FFFu;
#endif
}

#ifndef __CUDACC__
namespace simulated {

typedef float Row __attribute__((vector_size(32)));  // of the 8 columns of b and d
typedef std::uint32_t Words __attribute__((vector_size(32)));

struct MmaArguments {
  float* d;
  const std::uint32_t *a, *b;
};

/// What the lanes hold of d, as a matrix, and back.
inline void gather_d(Row (&d)[16], void* const* lanes) {
  for (int lane = 0; lane < sim::warp_lanes; ++lane) {
    const float* from = static_cast<const MmaArguments*>(lanes[lane])->d;
    const int group = lane / 4, column = lane % 4 * 2;
    d[group][column] = from[0];
    d[group][column + 1] = from[1];
    d[group + 8][column] = from[2];
    d[group + 8][column + 1] = from[3];
  }
}

inline void scatter_d(const Row (&d)[16], void* const* lanes) {
  for (int lane = 0; lane < sim::warp_lanes; ++lane) {
    float* to = static_cast<const MmaArguments*>(lanes[lane])->d;
    const int group = lane / 4, column = lane % 4 * 2;
    to[0] = d[group][column];
    to[1] = d[group][column + 1];
    to[2] = d[group + 8][column];
    to[3] = d[group + 8][column + 1];
  }
}

/// The registers of a (16 rows) and b (8 rows), 8 to a row. Of 16-bit numbers a register holds two, next to each other
/// along k.
inline void gather_a(Words (&a)[16], void* const* lanes) {
  for (int lane = 0; lane < sim::warp_lanes; ++lane) {
    const std::uint32_t* from = static_cast<const MmaArguments*>(lanes[lane])->a;
    const int group = lane / 4, t = lane % 4;
    a[group][t] = from[0];
    a[group + 8][t] = from[1];
    a[group][t + 4] = from[2];
    a[group + 8][t + 4] = from[3];
  }
}

inline void gather_b(Words (&b)[8], void* const* lanes) {
  for (int lane = 0; lane < sim::warp_lanes; ++lane) {
    const std::uint32_t* from = static_cast<const MmaArguments*>(lanes[lane])->b;
    b[lane % 4][lane / 4] = from[0];
    b[lane % 4 + 4][lane / 4] = from[1];
  }
}

/// The numbers in the lower or upper halves of registers.
template <class T>
Row halves_of(Words registers, int which) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return std::bit_cast<Row>(which ? registers & 0xFFFF0000u : registers << 16);
  const Words bits = which ? registers >> 16 : registers & 0xFFFFu;
  const Words magnitude = (bits & 0x7FFFu) << 13, sign = (bits & 0x8000u) << 16;
  // As widen does: times 2^112 puts the exponent right, but not infinity's.
  const Words finite = std::bit_cast<Words>(std::bit_cast<Row>(magnitude) * 0x1p112f);
  return std::bit_cast<Row>(sign | (magnitude >= 0x7C00u << 13 ? magnitude | 0x7F800000u : finite));
}

template <class T>
void mma_m16n8k16(void* const* lanes, std::uint32_t) {
  Words registers_a[16], registers_b[8];
  Row b[16], d[16];
  gather_a(registers_a, lanes);
  gather_b(registers_b, lanes);
  gather_d(d, lanes);
  for (int k = 0; k < 16; ++k) b[k] = halves_of<T>(registers_b[k / 2], k % 2);
  for (int i = 0; i < 16; ++i) {
    const Row even = halves_of<T>(registers_a[i], 0), odd = halves_of<T>(registers_a[i], 1);
    for (int k = 0; k < 8; ++k) {
      d[i] += even[k] * b[2 * k];
      d[i] += odd[k] * b[2 * k + 1];
    }
  }
  scatter_d(d, lanes);
}

inline void mma_m16n8k8_tf32(void* const* lanes, std::uint32_t) {
  constexpr std::uint32_t read = ~0x1FFFu;  // the bits of a number that count
  Words a[16], b[8];
  Row d[16];
  gather_a(a, lanes);
  gather_b(b, lanes);
  gather_d(d, lanes);
  for (int i = 0; i < 16; ++i) {
    const Row row = std::bit_cast<Row>(a[i] & read);
    for (int k = 0; k < 8; ++k) d[i] += row[k] * std::bit_cast<Row>(b[k] & read);
  }
  scatter_d(d, lanes);
}

}  // namespace simulated
#endif

/// d += a b with a (16, 16), b (16, 8), d (16, 8); T is Float16 or BFloat16. All 32 lanes call it.
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                             [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  if constexpr (std::is_same_v<T, BFloat16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simulated::MmaArguments mine{d, a, b};
  sim::warp_collective("mma_m16n8k16", simulated::mma_m16n8k16<T>, sim::all_lanes, &mine, true, site);
#endif
}

/// d += a b with a (16, 8), b (8, 8), d (16, 8) in tf32: float32 numbers of which the lower 13 bits are not read. Round
/// with to_tf32 where the difference matters. All 32 lanes call it.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2],
                                                 [[maybe_unused]] Site site = Site::current()) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simulated::MmaArguments mine{d, a, b};
  sim::warp_collective("mma_m16n8k8_tf32", simulated::mma_m16n8k8_tf32, sim::all_lanes, &mine, true, site);
#endif
}

}  // namespace imgrec::cuda
