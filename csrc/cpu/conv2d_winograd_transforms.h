// Winograd's minimal filtering: m outputs of a filter with r taps from m + r - 1 = 6 products instead of m r.
//
//     y = A^T [ (G g) * (B^T d) ]        d: 6 inputs, g: r taps, y: m outputs, * element by element
//
// After Winograd, "Arithmetic complexity of computations" (1980), and Lavin and Gray, "Fast algorithms for
// convolutional neural networks" (2015), which nests it for two dimensions: Y = A^T [ (G g G^T) * (B^T d B) ] A. With
// six points both F(4, 3) and F(2, 5) share B, and 36 products serve 16 outputs of a 3x3 filter (of 144 multiplies) or
// 4 of a 5x5 (of 100). With the points p = 0, +-a, +-b, infinity, a = sqrt(1/2), b = sqrt(2):
//
//     A^T (m x 6)                     G (6 x r)                              B^T (6 x 6)
//     [ 1  1   1    1    1   0 ]      [   1    0      0   ..  ]              [ 1    0  -5/2    0  1  0 ]
//     [ 0  a  -a    b   -b   0 ]      [ -2/3 (1   a   a^2 .. )]              [ 0  -2a   -2     a  1  0 ]
//     [ 0 a^2 a^2  b^2  b^2  0 ]      [ -2/3 (1  -a   a^2 .. )]              [ 0   2a   -2    -a  1  0 ]
//     [ ..                   1 ]      [  1/6 (1   b   b^2 .. )]              [ 0 -b/2 -1/2     b  1  0 ]
//                                     [  1/6 (1  -b   b^2 .. )]              [ 0  b/2 -1/2    -b  1  0 ]
//                                     [   0    0      ..   1  ]              [ 0    1    0  -5/2  0  1 ]
//
// So A evaluates a polynomial at the points, G does the same and scales, and the transposes collect. Rounding errors
// depend on the points: these have 2 times those of a direct kernel, where the customary 0, +-1, +-2 have 7 times.
#pragma once

#include "cpu/simd.h"

namespace imgrec::cpu::winograd {

inline constexpr int points = 6, positions = points * points;
/// Outputs of a tile along an axis.
template <int taps>
inline constexpr int tile_outputs = points + 1 - taps;

inline constexpr float near = 0.70710678118654752440F, far = 1.41421356237309504880F;
inline constexpr float near_square = 0.5F, far_square = 2.0F;
inline constexpr float scales[points] = {1, -2.0F / 3, -2.0F / 3, 1.0F / 6, 1.0F / 6, 1};

/// The values at p and -p of the polynomial with these coefficients.
template <int n, class V>
inline void evaluate_pair(float point, float square, const V (&coefficients)[n], V& at_plus, V& at_minus) {
  constexpr int last_even = (n - 1) / 2 * 2, last_odd = n / 2 * 2 - 1;
  V even = coefficients[last_even], odd = coefficients[last_odd];
#pragma GCC unroll 4
  for (int k = last_even - 2; k >= 0; k -= 2) even = even * square + coefficients[k];
#pragma GCC unroll 4
  for (int k = last_odd - 2; k >= 1; k -= 2) odd = odd * square + coefficients[k];
  at_plus = even + point * odd;
  at_minus = even - point * odd;
}

/// n coefficients to values at the six points: A.
struct Evaluate {
  template <int n, class V>
  void operator()(const V (&from)[n], V (&to)[points]) const {
    to[0] = from[0];
    evaluate_pair(near, near_square, from, to[1], to[2]);
    evaluate_pair(far, far_square, from, to[3], to[4]);
    to[5] = from[n - 1];
  }
};

/// The same, scaled: G.
struct EvaluateScaled {
  template <int n, class V>
  void operator()(const V (&from)[n], V (&to)[points]) const {
    Evaluate()(from, to);
#pragma GCC unroll 4
    for (int p = 1; p < points - 1; ++p) to[p] *= scales[p];
  }
};

/// The transpose of Evaluate: A^T.
struct Collect {
  template <int n, class V>
  void operator()(const V (&from)[points], V (&to)[n]) const {
    const V near_even = from[1] + from[2], near_odd = near * (from[1] - from[2]);
    const V far_even = from[3] + from[4], far_odd = far * (from[3] - from[4]);
    float near_power = 1, far_power = 1;
#pragma GCC unroll 3
    for (int k = 0; k < n; k += 2, near_power *= near_square, far_power *= far_square) {
      to[k] = near_even * near_power + far_even * far_power;
      if (k + 1 < n) to[k + 1] = near_odd * near_power + far_odd * far_power;
    }
    to[0] += from[0];
    to[n - 1] += from[5];
  }
};

/// The transpose of EvaluateScaled: G^T.
struct CollectScaled {
  template <int n, class V>
  void operator()(const V (&from)[points], V (&to)[n]) const {
    V scaled[points] = {from[0], {}, {}, {}, {}, from[5]};
#pragma GCC unroll 4
    for (int p = 1; p < points - 1; ++p) scaled[p] = from[p] * scales[p];
    Collect()(scaled, to);
  }
};

/// B^T: coefficients of the polynomials that vanish at all the points but one.
struct Interpolate {
  template <class V>
  void operator()(const V (&from)[points], V (&to)[points]) const {
    const V near_even = from[4] - far_square * from[2], near_odd = from[3] - far_square * from[1];
    const V far_even = from[4] - near_square * from[2], far_odd = from[3] - near_square * from[1];
    to[0] = from[4] - (near_square + far_square) * from[2] + from[0];
    to[1] = near_even + near * near_odd;
    to[2] = near_even - near * near_odd;
    to[3] = far_even + far * far_odd;
    to[4] = far_even - far * far_odd;
    to[5] = from[5] - (near_square + far_square) * from[3] + from[1];
  }
};

/// Applies a transform to the columns, then to the rows of a square of vectors: load(i, j) gives in x in of them,
/// store(i, j, vector) receives out x out.
template <int in, int out, class Transform, class Load, class Store>
inline void transform_square(Transform transform, Load&& load, Store&& store) {
  using V = Vector<float>;
  V half[out][in];
#pragma GCC unroll 6
  for (int j = 0; j < in; ++j) {
    V column[in], transformed[out];
#pragma GCC unroll 6
    for (int i = 0; i < in; ++i) column[i] = load(i, j);
    transform(column, transformed);
#pragma GCC unroll 6
    for (int i = 0; i < out; ++i) half[i][j] = transformed[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < out; ++i) {
    V row[out];
    transform(half[i], row);
#pragma GCC unroll 6
    for (int j = 0; j < out; ++j) store(i, j, row[j]);
  }
}

}  // namespace imgrec::cpu::winograd
