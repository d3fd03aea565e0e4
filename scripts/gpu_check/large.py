"""Stage 7: more elements than 2^31: every index that a kernel keeps in 32 bits would show in the last ones.

The first and the last elements are compared with the same op on the CPU, in float64, on as much as they depend on. In a
rehearsal the tensors are small.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import imgrec_engine as ie
from gpu_check.stage import Rows, Setting
from imgrec_engine import functional as F
from imgrec_engine import kernels
from imgrec_engine.dtypes import bfloat16, float64

CROSSED, REHEARSED = 2**31, 2**14
TOLERANCE = 1.6e-2  # of bfloat16, relative to the largest element


def run(setting: Setting, rows: Rows) -> str:
    """A row for each op; one that the memory does not suffice for is an error of that row alone."""
    elements = REHEARSED if setting.rehearsal else CROSSED
    for check in (elementwise, matmul, convolution):
        try:
            rows.add(check.__name__, **check(setting.device, elements))
        except ie.errors.OutOfMemoryError as error:
            rows.add(check.__name__, out_of_memory=str(error))
        kernels.load(setting.device)[0].pool_trim()
    return f"{rows.count} ops on tensors of more than {elements} elements"


def elementwise(device: str, elements: int) -> dict[str, Any]:
    """A long row through gelu, and its gradient."""
    x = ie.randn(elements + 1001, dtype=bfloat16, device=device).requires_grad_()
    y = F.gelu(x)
    y.backward(ie.ones(*x.shape, dtype=bfloat16, device=device))
    differences = []
    for part in (slice(0, 1000), slice(elements - 500, elements + 500), slice(elements + 1, None)):
        sample = _host(x.detach()[part]).requires_grad_()
        reference = F.gelu(sample)
        reference.sum().backward()
        differences += [_difference(y[part], reference), _difference(_there(x.grad)[part], _there(sample.grad))]
    return _row(x.size, differences)


def matmul(device: str, elements: int) -> dict[str, Any]:
    """A tall matrix by a narrow one."""
    inner = 1024 if elements == CROSSED else 32
    a = ie.randn(elements // inner + 3, inner, dtype=bfloat16, device=device)
    b = ie.randn(inner, 16, dtype=bfloat16, device=device)
    y = a @ b
    parts = (slice(0, 8), slice(-8, None))
    return _row(a.size, [_difference(y[part], _host(a[part]) @ _host(b)) for part in parts])


def convolution(device: str, elements: int) -> dict[str, Any]:
    """3x3, from and to as many channels; the gradient comes from the last image alone."""
    side, channels = (32, 64) if elements == CROSSED else (8, 16)
    images = elements // (side * side * channels) + 2
    x = ie.randn(images, side, side, channels, dtype=bfloat16, device=device).requires_grad_()
    weight = (0.05 * ie.randn(channels, 3, 3, channels, dtype=bfloat16, device=device)).detach().requires_grad_()
    y = F.conv2d(x, weight, padding=1)
    dy = ie.zeros(*y.shape, dtype=bfloat16, device=device)
    dy[-1:] = ie.ones(1, side, side, channels, dtype=bfloat16, device=device)
    y.backward(dy)
    last, exact = _host(x.detach()[-1:]).requires_grad_(), _host(weight.detach()).requires_grad_()
    reference = F.conv2d(last, exact, padding=1)
    reference.sum().backward()
    first = F.conv2d(_host(x.detach()[:1]), exact.detach(), padding=1)
    differences = [
        _difference(y[:1], first),
        _difference(y[-1:], reference),
        _difference(_there(x.grad)[-1:], _there(last.grad)),
        _difference(_there(weight.grad), _there(exact.grad)),
    ]
    return _row(x.size, differences)


def _host(x: ie.Tensor) -> ie.Tensor:
    return x.detach().to("cpu").to(float64)


def _there(gradient: ie.Tensor | None) -> ie.Tensor:
    assert gradient is not None
    return gradient


def _difference(ours: ie.Tensor, reference: ie.Tensor) -> float:
    exact = reference.numpy()
    return float(np.abs(_host(ours).numpy() - exact).max() / np.abs(exact).max())


def _row(elements: int, differences: list[float]) -> dict[str, Any]:
    """NaN is no small difference."""
    held = all(difference <= TOLERANCE for difference in differences)
    return {"held": held, "elements": elements, "differences": differences}
