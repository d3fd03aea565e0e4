"""What this build has, for `imgrec info`."""

from __future__ import annotations

import importlib.util
import os
import platform

import numpy as np

import imgrec_engine
from imgrec_engine import cuda, kernels, simulator
from imgrec_engine.errors import DeviceError


def report() -> str:
    """Versions, devices (and why one is absent), threads and optional packages, one to a line."""
    optional = ("matplotlib", "sklearn", "skimage", "tensorboardX", "optuna", "cupy")
    found = [name for name in optional if importlib.util.find_spec(name) is not None]
    return "\n".join(
        [
            f"imgrec_engine  {imgrec_engine.__version__}",
            f"python         {platform.python_version()}, numpy {np.__version__}",
            f"device cpu     kernels built for {target()}, {kernels.get_threads()} threads (IMGREC_NUM_THREADS)",
            f"device cuda    {_gpus()}",
            f"device sim     {_simulator()}",
            "default device cpu",
            f"optional       {', '.join(found) or 'none'} (of {', '.join(optional)})",
        ]
    )


def _gpus() -> str:
    """The first GPU and how many there are, or what is missing."""
    try:
        module, context = kernels.load("cuda")
    except DeviceError as error:
        return "absent: " + str(error).removeprefix("device 'cuda' is not available: ")
    cupy = cuda.namespace()
    count, driver = cupy.cuda.runtime.getDeviceCount(), cupy.cuda.runtime.driverGetVersion()
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    return (
        f"{name} ({context.sm_count} SMs, {context.max_shared_bytes // 1024} KB shared memory a block), the first of "
        f"{count}; kernels built for {module.kernel_target()}; CuPy {cupy.__version__}, driver for CUDA "
        f"{driver // 1000}.{driver % 1000 // 10}"
    )


def _simulator() -> str:
    """The simulated GPU, or why there is none."""
    try:
        _, context = kernels.load("sim")
    except (DeviceError, ValueError) as error:  # the module is absent, or a variable of the environment is wrong
        return "absent: " + str(error).removeprefix("device 'sim' is not available: ")
    checkers = os.environ["IMGREC_SIM_CHECK"] if simulator.is_checked() else "none"
    schedule = os.environ.get("IMGREC_SIM_SCHEDULE") or "eager"
    return (
        f"CUDA kernels on {context.sm_count} simulated SMs (IMGREC_SIM_SMS) with {context.max_shared_bytes // 1024} KB "
        f"shared memory a block (IMGREC_SIM_SHARED), {context.threads} threads, schedule: {schedule} "
        f"(IMGREC_SIM_SCHEDULE), checkers: {checkers} (IMGREC_SIM_CHECK)"
    )


def target() -> str:
    """The processor level that the CPU kernels in use were built for."""
    return str(kernels.load("cpu")[0].kernel_target())
