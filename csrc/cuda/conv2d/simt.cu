// Convolution as implicit matrix products on the ordinary arithmetic units: exact for float32 and float64, for any
// shape. What is multiplied: products.h. How: gemm/simt.h, in tiles of 64 x 64 x 16, for float32 also 128 x 128 x 8
// where both sides fill many of them.
//
// Neighbouring blocks read the same patches, so an image comes from memory about once, and KH KW times from the caches.
//
// Registers on sm_80 (sm_90a), no spills: 93 to 119 (111 to 123) for 64 x 64 in float, 141 to 168 (151 to 173) for
// 128 x 128, 134 to 156 (158 to 166) for double. Measured share of the peer: not run on a GPU.
#include "cuda/conv2d/products.h"

namespace imgrec::cuda {
namespace {

/// Calls body(tile, T{}) with the tile for a product of so many rows and columns.
template <class Body>
void for_tile(DType dtype, std::int64_t rows, std::int64_t columns, Body&& body) {
  for_floating(dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (std::is_same_v<T, float>)
      if (rows >= 16384 && columns >= 128) return body(SimtTile<float, 8>{}, type);
    body(SimtTile<Compute<T>, 4>{}, type);
  });
}

}  // namespace

void conv2d_simt(const Context& context, const Conv2dForward& arrays, const Conv2dShape& shape) {
  for_tile(arrays.y.dtype, shape.outputs(), shape.group_out(),
           [&](auto tile, auto type) { launch_product<decltype(tile), decltype(type)>(context, arrays, shape); });
}

void conv2d_simt(const Context& context, const Conv2dBackwardInput& arrays, const Conv2dShape& shape) {
  for_tile(arrays.dx.dtype, shape.inputs(), shape.group_in(),
           [&](auto tile, auto type) { launch_product<decltype(tile), decltype(type)>(context, arrays, shape); });
}

void conv2d_simt(const Context& context, const Conv2dBackwardWeight& arrays, const Conv2dShape& shape) {
  for_tile(arrays.dweight.dtype, 0, 0,
           [&](auto tile, auto type) { launch_product<decltype(tile), decltype(type)>(context, arrays, shape); });
}

}  // namespace imgrec::cuda
