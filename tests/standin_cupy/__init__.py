"""A stand-in for CuPy on machines without a GPU: its interface as far as the package uses it, on memory of the host.

It is as strict as CuPy, or stricter where CuPy is silent and wrong: arrays do not become NumPy's by themselves, nor mix
with them; what CuPy lacks for bfloat16 is lacking; operations want their arrays on the current GPU (there are two).
Streams other than the default one put copies from pinned memory off until somebody waits for them, so that who does not
wait reads NaN, and a pinned buffer that is used again too early spoils the copy.

`pytest -p standin_cupy` installs it as `cupy`, with the simulator's kernels as `imgrec_engine._cuda`.
"""

import contextlib
import functools
import importlib.machinery
import sys
import types

from standin_cupy import cublas, functions, gpu, graph
from standin_cupy.array import asarray, copyto, cupy, empty, from_dlpack, ndarray, perform

__all__ = ["functions", "install"]


def pytest_runtest_teardown():
    """A plugin's hook: finalizers cannot raise."""
    faults, gpu.Block.faults[:] = list(gpu.Block.faults), []
    assert not faults


def install():
    """Puts the stand-ins where the package imports CuPy and its own module of CUDA kernels from."""
    runtime = types.SimpleNamespace(
        CUDARuntimeError=gpu.CUDARuntimeError,
        driverGetVersion=lambda: 13000,
        getDeviceCount=lambda: gpu.GPUS,
        getDevice=lambda: gpu.thread.device,
        getDeviceProperties=lambda index: {"name": b"Stand-in"},
        CUDA_R_32F=0,
        CUDA_R_64F=1,
        CUDA_R_16F=2,
        CUDA_R_16BF=14,
    )
    for own in (ndarray, empty, asarray, from_dlpack, copyto, gpu.get_default_memory_pool):
        setattr(cupy, own.__name__, own)
    cupy.__version__ = "14.2.0"
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    cupy.cuda = types.SimpleNamespace(
        Device=gpu.Device,
        Event=gpu.Event,
        MemoryPool=gpu.MemoryPool,
        Stream=gpu.Stream,
        UnownedMemory=gpu.UnownedMemory,
        alloc_pinned_memory=gpu.PinnedMemory,
        get_cublas_handle=lambda: 1,
        get_current_stream=gpu.get_current_stream,
        get_elapsed_time=gpu.get_elapsed_time,
        memory=types.SimpleNamespace(OutOfMemoryError=gpu.OutOfMemoryError),
        nvtx=gpu.Nvtx,
        runtime=runtime,
        using_allocator=gpu.using_allocator,
    )
    sys.modules["cupy"] = cupy
    sys.modules["cupy_backends.cuda.libs.cublas"] = types.SimpleNamespace(
        gemmStridedBatchedEx=lambda *args: perform(functools.partial(cublas.gemm_strided_batched_ex, *args)),
        CUBLAS_COMPUTE_32F=68,
        CUBLAS_COMPUTE_32F_FAST_TF32=77,
        CUBLAS_COMPUTE_64F=70,
        CUBLAS_GEMM_DEFAULT=-1,
    )
    with contextlib.suppress(ImportError):
        sys.modules["imgrec_engine._cuda"] = graph.capturable(importlib.import_module("imgrec_engine._sim"))


install()
