// Convolution as implicit matrix products on tensor cores. What is multiplied: products.h. How: gemm/tensor_core.h, in
// tiles of 128 x 128 or 64 x 64 results and 64 bytes of depth.
//
// Packs of 16 bytes run over channels, so the channels of a group must be whole packs, 8 numbers of 16 bits or 4 of
// float32, and arrays aligned to 16 bytes.
//
// Registers on sm_80 (sm_90a), no spills: 99 to 114 (110 to 125) for 64 x 64; for 128 x 128 114 to 128 (120 to 128)
// with 16-bit numbers and 142 to 158 (150 to 166) with tf32. Measured share of the peer: not run on a GPU.
#include "cuda/conv2d/products.h"

namespace imgrec::cuda {
namespace {

/// Calls body(tile, T{}) with tiles of so many rows and columns.
template <class Body>
void for_tile(DType dtype, std::int64_t side, Body&& body) {
  for_floating(dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, double>) {
      if (side == 128) return body(TensorCoreTile<T, 4>{}, type);
      body(TensorCoreTile<T, 2>{}, type);
    }
  });
}

}  // namespace

bool tensor_cores_serve(const Context& context, const Conv2dShape& shape, DType dtype, Conv2dPass pass) {
  if (dtype == DType::float64 || (dtype == DType::float32 && !context.allow_tf32)) return false;
  const std::int64_t pack = 16 / size_of(dtype);
  if (shape.group_in() == 0 || shape.group_in() % pack != 0) return false;
  return pass == Conv2dPass::forward || shape.group_out() % pack == 0;
}

std::int64_t tensor_core_side(const Conv2dShape& shape, Conv2dPass pass) {
  constexpr std::int64_t enough_tiles = 128;  // for a large GPU
  const auto tiles = [](std::int64_t size) { return (size + 127) / 128; };
  const bool weights = pass == Conv2dPass::backward_weight, input = pass == Conv2dPass::backward_input;
  const std::int64_t rows = weights ? shape.group_out() : input ? shape.inputs() : shape.outputs();
  const std::int64_t columns = weights ? shape.taps() : input ? shape.group_in() : shape.group_out();
  // backward_weight cuts its depth until there are enough.
  const bool enough = weights || tiles(rows) * tiles(columns) * shape.groups >= enough_tiles;
  return rows > 64 && columns > 64 && enough ? 128 : 64;
}

void conv2d_tensor_core(const Context& context, const Conv2dForward& arrays, const Conv2dShape& shape) {
  for_tile(arrays.y.dtype, tensor_core_side(shape, Conv2dPass::forward),
           [&](auto tile, auto type) { launch_product<decltype(tile), decltype(type)>(context, arrays, shape); });
}

void conv2d_tensor_core(const Context& context, const Conv2dBackwardInput& arrays, const Conv2dShape& shape) {
  for_tile(arrays.dx.dtype, tensor_core_side(shape, Conv2dPass::backward_input),
           [&](auto tile, auto type) { launch_product<decltype(tile), decltype(type)>(context, arrays, shape); });
}

void conv2d_tensor_core(const Context& context, const Conv2dBackwardWeight& arrays, const Conv2dShape& shape) {
  for_tile(arrays.dweight.dtype, tensor_core_side(shape, Conv2dPass::backward_weight),
           [&](auto tile, auto type) { launch_product<decltype(tile), decltype(type)>(context, arrays, shape); });
}

}  // namespace imgrec::cuda
