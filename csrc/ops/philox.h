// Philox4x32-10 and the maps from its words to numbers, shared by all devices.
// Only operations that IEEE 754 rounds exactly are used, and no fused multiply-add, so results are equal bit for bit.
#pragma once

#include <cmath>
#include <cstdint>

// On a GPU these two never fuse; elsewhere the file that includes this one is compiled with -ffp-contract=off.
#ifdef __CUDA_ARCH__
#define IMGREC_MULTIPLY(a, b) __dmul_rn(a, b)
#define IMGREC_ADD(a, b) __dadd_rn(a, b)
#else
#define IMGREC_MULTIPLY(a, b) ((a) * (b))
#define IMGREC_ADD(a, b) ((a) + (b))
#endif
#ifdef __CUDACC__
#define IMGREC_DEVICE __host__ __device__ inline
#else
#define IMGREC_DEVICE inline
#endif

namespace imgrec {

struct PhiloxWords {
  std::uint32_t word[4];
};

/// The four words for one 128-bit counter (offset, index) under a 64-bit key.
IMGREC_DEVICE PhiloxWords philox(std::uint64_t seed, std::uint64_t offset, std::uint64_t index) {
  std::uint32_t c0 = static_cast<std::uint32_t>(index), c1 = static_cast<std::uint32_t>(index >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(offset), c3 = static_cast<std::uint32_t>(offset >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// Uniform in [0, 1) with 24 bits: exact in float32.
IMGREC_DEVICE float uniform_float(std::uint32_t word) { return static_cast<float>(word >> 8) * (1.0f / 16777216.0f); }

/// Uniform in [0, 1) with 53 bits.
IMGREC_DEVICE double uniform_double(std::uint32_t high, std::uint32_t low) {
  const std::uint64_t bits = (static_cast<std::uint64_t>(high) << 21) ^ (low >> 11);
  return static_cast<double>(bits & ((1ull << 53) - 1)) * (1.0 / 9007199254740992.0);
}

struct NormalPair {
  double first, second;
};

/// log(x) for normal x > 0: x = 2^e m with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh(s), s = (m - 1) / (m + 1).
IMGREC_DEVICE double exact_log(double x) {
  union {
    double value;
    std::uint64_t bits;
  } u = {x};
  int exponent = static_cast<int>(u.bits >> 52) - 1023;
  u.bits = (u.bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
  double m = u.value;
  if (m > 1.4142135623730951) {
    m = m * 0.5;
    exponent = exponent + 1;
  }
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  double sum = 0.0;
  for (int n = 21; n >= 1; n -= 2) {
    sum = IMGREC_MULTIPLY(sum, z);
    sum = IMGREC_ADD(sum, 1.0 / n);
  }
  return IMGREC_ADD(IMGREC_MULTIPLY(exponent, 0.69314718055994531), IMGREC_MULTIPLY(IMGREC_MULTIPLY(2.0, s), sum));
}

/// cos and sin of 2 pi t for t in [0, 1), by Taylor series on an eighth of the circle.
IMGREC_DEVICE NormalPair exact_circle(double t) {
  const int octant = static_cast<int>(t * 8.0);
  // Odd octants count backwards from their upper end, so that the angle stays within pi / 4.
  const double part = octant & 1 ? (octant + 1) - t * 8.0 : t * 8.0 - octant;
  const double angle = IMGREC_MULTIPLY(part, 0.78539816339744831), z = IMGREC_MULTIPLY(angle, angle);
  double sine = 1.0, cosine = 1.0;
  for (int n = 16; n >= 2; n -= 2) {
    cosine = IMGREC_ADD(1.0, -IMGREC_MULTIPLY(cosine, z / (n * (n - 1))));
    sine = IMGREC_ADD(1.0, -IMGREC_MULTIPLY(sine, z / (n * (n + 1))));
  }
  sine = IMGREC_MULTIPLY(sine, angle);
  const bool swap = ((octant + 1) & 2) != 0;  // octants 1, 2, 5, 6 lie nearer to the sine's axis
  const double c = swap ? sine : cosine, s = swap ? cosine : sine;
  return {octant >= 2 && octant < 6 ? -c : c, octant >= 4 ? -s : s};
}

/// Two independent standard normal numbers from one counter (Box and Muller, 1958).
IMGREC_DEVICE NormalPair normal_pair(const PhiloxWords& words) {
  const double u = 1.0 - uniform_double(words.word[0], words.word[1]);  // (0, 1]: the logarithm is finite
  const double radius = sqrt(-2.0 * exact_log(u));
  const NormalPair circle = exact_circle(uniform_double(words.word[2], words.word[3]));
  return {IMGREC_MULTIPLY(radius, circle.first), IMGREC_MULTIPLY(radius, circle.second)};
}

}  // namespace imgrec
