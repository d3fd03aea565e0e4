"""The one function of cuBLAS that the package calls."""

import ctypes

import ml_dtypes
import numpy as np

_DTYPES = {0: np.dtype(np.float32), 1: np.dtype(np.float64), 2: np.dtype(np.float16), 14: np.dtype(ml_dtypes.bfloat16)}
_COMPUTE = {68: np.float32, 70: np.float64, 77: np.float32}


def _to_tf32(x):
    """Rounded to 10 bits of fraction."""
    return ((x.astype(np.float32).view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


def gemm_strided_batched_ex(
    handle, transa, transb, m, n, k, alpha, a, a_type, lda, stride_a, b, b_type, ldb, stride_b, beta, c, c_type, ldc,
    stride_c, batch, compute, algorithm,
):  # fmt: skip
    """Its matrices lie by columns: element (i, j) of one is at i + j ld."""

    def matrices(address, code, rows, columns, step, stride):
        if step < max(1, rows) or k == 0:
            raise RuntimeError("CUBLAS_STATUS_INVALID_VALUE")
        dtype = _DTYPES[code]
        last = (batch - 1) * stride + (columns - 1) * step + rows
        memory = (ctypes.c_char * (last * dtype.itemsize)).from_address(address)
        strides = (stride * dtype.itemsize, dtype.itemsize, step * dtype.itemsize)
        return np.ndarray((batch, rows, columns), dtype, memory, strides=strides)

    left = (
        matrices(a, a_type, k, m, lda, stride_a).swapaxes(1, 2) if transa else matrices(a, a_type, m, k, lda, stride_a)
    )
    right = (
        matrices(b, b_type, n, k, ldb, stride_b).swapaxes(1, 2) if transb else matrices(b, b_type, k, n, ldb, stride_b)
    )
    wide = _COMPUTE[compute]
    if compute == 77:
        left, right = _to_tf32(left), _to_tf32(right)
    size = np.dtype(wide).itemsize
    scale, kept = (np.frombuffer(ctypes.string_at(address, size), wide)[0] for address in (alpha, beta))
    result = matrices(c, c_type, m, n, ldc, stride_c)
    sums = scale * (left.astype(np.float64) @ right.astype(np.float64))
    result[...] = (sums + kept * result if kept else sums).astype(wide)  # with beta 0 cuBLAS does not read C
