// Two-dimensional convolution (cross-correlation) of channels-last images:
//
//   y[n, i, j, o] = act(bias[o] + sum over kh, kw, c of
//                       x[n, i s_h - p_h + kh d_h, j s_w - p_w + kw d_w, g C/groups + c] weight[o, kh, kw, c])
//
// with stride s, leading padding p (zeros), dilation d, and g the group of output channel o.
//   x (N, H, W, C)   weight (C_out, KH, KW, C / groups)   bias (C_out,)   y (N, OH, OW, C_out)
// All arrays contiguous: float32, float64, float16, bfloat16; the 16-bit types accumulate in float32.
#pragma once

#include "ops/activation.h"
#include "ops/array.h"

namespace imgrec {

/// One spatial axis.
struct Conv2dAxis {
  std::int64_t input, kernel, stride, padding_before, padding_after, dilation;

  /// 0 or less where the kernel does not fit into the padded input.
  std::int64_t output() const {
    return (input + padding_before + padding_after - dilation * (kernel - 1) - 1 + stride) / stride;
  }
};

/// What the caller asks for: `automatic` leaves the choice among the kernels to the plan, `direct` sums the products,
/// `winograd` is the CPU's fast algorithm, with larger rounding errors.
enum class Conv2dAlgorithm : std::uint8_t { automatic, direct, winograd };

struct Conv2dShape {
  std::int64_t batch, in_channels, out_channels, groups;
  Conv2dAxis height, width;
  Conv2dAlgorithm algorithm = Conv2dAlgorithm::automatic;  // the plan and the calls that follow it must agree on it

  std::int64_t group_in() const { return in_channels / groups; }
  std::int64_t group_out() const { return out_channels / groups; }
  std::int64_t taps() const { return height.kernel * width.kernel * group_in(); }  // that an output sums
  std::int64_t inputs() const { return batch * height.input * width.input; }       // pixels, as outputs()
  std::int64_t outputs() const { return batch * height.output() * width.output(); }
};

enum class Conv2dPass : std::uint8_t { forward, backward_input, backward_weight };

/// Throws std::invalid_argument where the asked algorithm cannot serve.
Plan conv2d_plan(const Context& context, const Conv2dShape& shape, DType dtype, Conv2dPass pass);

/// Packs the weights for one pass, forward or backward_input; nothing where the plan asks for no packed bytes. Images
/// that are smaller than a stride have a layout of their own.
void conv2d_pack(const Context& context, const Array& packed, const Array& weight, const Conv2dShape& shape,
                 Conv2dPass pass);

/// packed: from conv2d_pack, here and below; not looked at where the plan asks for none.
/// pre_activation, where present, receives what the activation was applied to; it has the shape of y.
void conv2d_forward(const Context& context, const Array& y, const Array& pre_activation, const Array& x,
                    const Array& weight, const Array& packed, const Array& bias, const Conv2dShape& shape,
                    Activation activation, const Array& workspace);

/// dy is the gradient of the result before its activation, here and below.
void conv2d_backward_input(const Context& context, const Array& dx, const Array& dy, const Array& weight,
                           const Array& packed, const Conv2dShape& shape, const Array& workspace);

/// Either of dweight and dbias may be absent.
void conv2d_backward_weight(const Context& context, const Array& dweight, const Array& dbias, const Array& x,
                            const Array& dy, const Conv2dShape& shape, const Array& workspace);

}  // namespace imgrec
