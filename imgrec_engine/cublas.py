"""Matrix products of the device `cuda`: cuBLAS, through the functions and handles that CuPy has of it.

`cupy.matmul` would do but for the 16-bit dtypes, whose batched products it refuses (bfloat16) or computes by way of
float32 copies (float16), and for transposed operands, which it copies.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from imgrec_engine.dtypes import bfloat16, float16, float32, float64

_NO_TRANSPOSE, _TRANSPOSE = 0, 1
_PLAN = SimpleNamespace(algorithm="cublas", workspace_bytes=0, reserve_bytes=0, packed_bytes=0)


class Products:
    """What csrc/bindings/matmul.cpp offers: c (batch, m, n) = activation(a (batch, m, k) b (batch, k, n) + bias (n,)).

    Or c (..., n) of a (..., k) and b (k, n). A residual of c's shape may be added before the activation as well.

    All of one floating dtype. float16 and bfloat16 accumulate in float32; float32 is rounded to tf32 first where the
    context allows it. ``activate`` is the kernel `activation_forward`.
    """

    def __init__(self, cupy: Any, activate: Callable[..., None]) -> None:
        self._cuda = cupy.cuda
        self._activate = activate
        self._cublas: Any = None  # loaded by the first product: it takes a while
        runtime = cupy.cuda.runtime
        self._codes = {
            float32: runtime.CUDA_R_32F,
            float64: runtime.CUDA_R_64F,
            float16: runtime.CUDA_R_16F,
            bfloat16: runtime.CUDA_R_16BF,
        }
        self._factors = {wide: (np.ones((), wide), np.zeros((), wide)) for wide in (float32, float64)}

    def plan(self, context: Any, batch: int, m: int, n: int, k: int, dtype: np.dtype[Any]) -> Any:
        """What a product needs besides its operands: nothing."""
        return _PLAN

    def multiply(
        self,
        context: Any,
        c: Any,
        a: Any,
        b: Any,
        packed: Any,
        bias: Any,
        residual: Any,
        activation: str,
        workspace: Any,
    ) -> None:
        """Writes the products of the matrices of a and b into c, which has no gaps; a and b may be strided."""
        if b.ndim == 2:
            rows = math.prod(a.shape[:-1])
            c, a, b = c.reshape(1, rows, c.shape[-1]), a.reshape(1, rows, a.shape[-1]), b[None]
        if c.size == 0:
            return
        if residual is not None:
            c[...] = residual.reshape(c.shape)
        elif a.shape[2] == 0:
            c.fill(0)
        if a.shape[2] > 0:
            self._multiply(context, c, a, b, adds=residual is not None)
        if bias is not None:
            c += bias
        if activation:
            self._activate(context, c, c, activation)

    def _multiply(self, context: Any, c: Any, a: Any, b: Any, adds: bool) -> None:
        """The products alone, of matrices that are not empty; they may be added to what c holds."""
        batch, m, n = c.shape
        k = a.shape[2]
        if self._cublas is None:
            self._cublas = importlib.import_module("cupy_backends.cuda.libs.cublas")
        wide = float64 if c.dtype == float64 else float32
        one, zero = self._factors[wide]
        code, library = self._codes[c.dtype], self._cublas
        left, left_transposed, left_step, left_stride = _layout(a)
        right, right_transposed, right_step, right_stride = _layout(b)
        # cuBLAS has matrices by columns: what it sees are the transposes, and c^T = b^T a^T.
        library.gemmStridedBatchedEx(
            self._cuda.get_cublas_handle(),
            _TRANSPOSE if right_transposed else _NO_TRANSPOSE,
            _TRANSPOSE if left_transposed else _NO_TRANSPOSE,
            *(n, m, k),
            one.ctypes.data,
            *(right.data.ptr, code, right_step, right_stride),
            *(left.data.ptr, code, left_step, left_stride),
            (one if adds else zero).ctypes.data,
            *(c.data.ptr, code, n, m * n),
            batch,
            self._precision(context, c.dtype),
            library.CUBLAS_GEMM_DEFAULT,
        )

    def _precision(self, context: Any, dtype: np.dtype[Any]) -> int:
        """What cuBLAS is to compute in."""
        if dtype == float64:
            return int(self._cublas.CUBLAS_COMPUTE_64F)
        if dtype == float32 and context.allow_tf32:
            return int(self._cublas.CUBLAS_COMPUTE_32F_FAST_TF32)
        return int(self._cublas.CUBLAS_COMPUTE_32F)


def _layout(x: Any) -> tuple[Any, bool, int, int]:
    """How cuBLAS is to read the matrices of x (batch, rows, columns): x itself or a copy without gaps, whether columns
    lie one after another instead of rows, the distance between them, and that between matrices.
    """
    _, rows, columns = x.shape
    matrix, row, column = (stride // x.itemsize for stride in x.strides)
    if (column == 1 or columns == 1) and (row >= columns or rows == 1):
        return x, False, row if rows > 1 else columns, matrix
    if (row == 1 or rows == 1) and (column >= rows or columns == 1):
        return x, True, column if columns > 1 else rows, matrix
    return x.copy(order="C"), False, columns, rows * columns
