"""Kernels of each family, called as training calls them: python -m gpu_check.workloads DEVICE small|large [NAME ...].

Small ones are for tools that slow kernels down, and on a GPU have every array in memory of its own, so that those tools
see where it ends; large ones fill a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import imgrec_engine as ie
from imgrec_engine import cuda, kernels, optim
from imgrec_engine import functional as F

Workload = Callable[[str, Any, bool], list[ie.Tensor]]


def _leaf(device: str, dtype: Any, *shape: int, scale: float = 1.0) -> ie.Tensor:
    return (scale * ie.randn(*shape, dtype=dtype, device=device)).requires_grad_()


def _run(function: Callable[..., ie.Tensor], *leaves: ie.Tensor) -> list[ie.Tensor]:
    """The output and all gradients."""
    y = function(*leaves)
    y.backward(ie.ones(*y.shape, dtype=y.dtype, device=y.device))
    return [y, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def _conv2d(device: str, dtype: Any, large: bool) -> list[ie.Tensor]:
    n, size, c = (32, 56, 64) if large else (2, 9, 8)
    x, weight, bias = (_leaf(device, dtype, *shape) for shape in ((n, size, size, c), (c, 3, 3, c), (c,)))
    return _run(lambda x, w, b: F.conv2d(x, w, b, padding=1, activation="relu"), x, weight, bias)


def _lstm(device: str, dtype: Any, large: bool) -> list[ie.Tensor]:
    n, steps, size = (64, 32, 256) if large else (2, 3, 16)
    x = _leaf(device, dtype, n, steps, size)
    shapes = ((4 * size, size), (4 * size, size), (4 * size,), (4 * size,))
    weights = [_leaf(device, dtype, *shape, scale=0.1) for shape in shapes]
    return _run(lambda x, *weights: F.lstm(x, None, None, *weights)[0], x, *weights)


def _attention(device: str, dtype: Any, large: bool) -> list[ie.Tensor]:
    shape = (8, 512, 8, 64) if large else (1, 24, 2, 16)
    leaves = [_leaf(device, dtype, *shape) for _ in range(3)]
    return _run(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), *leaves)


def _norm(device: str, dtype: Any, large: bool) -> list[ie.Tensor]:
    n, c = (32 * 56 * 56, 64) if large else (40, 8)
    x, weight, bias = (_leaf(device, dtype, *shape) for shape in ((n, c), (c,), (c,)))
    rows = _run(F.layer_norm, x, weight, bias)
    columns = _run(lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), x, weight, bias)
    return [*rows, *columns]


def _loss(device: str, dtype: Any, large: bool) -> list[ie.Tensor]:
    n, classes = (8192, 1000) if large else (9, 10)
    targets = ie.tensor(np.arange(n) % classes, device=device)
    return _run(lambda x: F.cross_entropy(F.dropout(x, 0.5), targets), _leaf(device, dtype, n, classes))


def _training(device: str, dtype: Any, large: bool) -> list[ie.Tensor]:
    """Pooling and an optimiser's steps, besides what the others have."""
    ie.manual_seed(1)
    model = ie.models.create("cnn", num_classes=10, in_channels=1, image_size=32 if large else 8)
    model.to(device, dtype)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    side = 32 if large else 8
    images, targets = (
        ie.rand(16, side, side, 1, dtype=dtype, device=device),
        ie.tensor(np.arange(16) % 10, device=device),
    )
    for _ in range(2):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
    return [loss, *model.parameters()]


def _seeded(work: Workload) -> Workload:
    def run(device: str, dtype: Any, large: bool) -> list[ie.Tensor]:
        ie.manual_seed(3)
        return work(device, dtype, large)

    return run


WORKLOADS: dict[str, Workload] = {
    "conv2d": _seeded(_conv2d),
    "lstm": _seeded(_lstm),
    "attention": _seeded(_attention),
    "norm": _seeded(_norm),
    "loss": _seeded(_loss),
    "training": _seeded(_training),
}


def main() -> int:
    """Runs all, or those named, in both dtypes that kernels differ most in."""
    device, size, *names = sys.argv[1:]
    if device == "cuda" and size == "small":
        kernels.load(device)
        cuda.namespace().cuda.set_allocator(None)
    for name in names or WORKLOADS:
        for dtype in ("float32", "bfloat16"):
            for result in WORKLOADS[name](device, dtype, size == "large"):
                result.numpy()
    print("workloads done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
