"""What this build has, for `imgrec info`."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform

import numpy as np

import imgrec_engine
from imgrec_engine import kernels, simulator
from imgrec_engine.errors import DeviceError


def report() -> str:
    """Versions, devices (and why one is absent), threads and optional packages, one to a line."""
    optional = ("matplotlib", "sklearn", "skimage", "cupy")
    found = [name for name in optional if importlib.util.find_spec(name) is not None]
    return "\n".join(
        [
            f"imgrec_engine  {imgrec_engine.__version__}",
            f"python         {platform.python_version()}, numpy {np.__version__}",
            f"device cpu     kernels built for {target()}, {kernels.get_threads()} threads (IMGREC_NUM_THREADS)",
            f"device cuda    {_cuda()}",
            f"device sim     {_simulator()}",
            "default device cpu",
            f"optional       {', '.join(found) or 'none'} (of {', '.join(optional)})",
        ]
    )


def _cuda() -> str:
    """What the kernels for GPUs were built for, and why the device is absent all the same."""
    try:
        module = importlib.import_module("imgrec_engine._cuda")
    except ModuleNotFoundError:
        return "absent: this build has no kernels for GPUs (IMGREC_CUDA=ON at installation builds them)"
    except ImportError as error:
        return f"absent: {error}"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return f"built for {module.kernel_target()}; absent: no CUDA driver"
    return f"built for {module.kernel_target()}; absent: this version has the kernels, but no tensors on GPUs"


def _simulator() -> str:
    """The simulated GPU, or why there is none."""
    try:
        _, context = kernels.load("sim")
    except (DeviceError, ValueError) as error:  # the module is absent, or a variable of the environment is wrong
        return "absent: " + str(error).removeprefix("device 'sim' is not available: ")
    checkers = os.environ["IMGREC_SIM_CHECK"] if simulator.is_checked() else "none"
    return (
        f"CUDA kernels on {context.sm_count} simulated SMs (IMGREC_SIM_SMS) with {context.max_shared_bytes // 1024} KB "
        f"shared memory a block (IMGREC_SIM_SHARED), {context.threads} threads, checkers: {checkers} (IMGREC_SIM_CHECK)"
    )


def target() -> str:
    """The processor level that the CPU kernels in use were built for."""
    return str(kernels.load("cpu")[0].kernel_target())
