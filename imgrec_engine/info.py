"""What this build has, for `imgrec info`."""

from __future__ import annotations

import importlib.util
import platform

import numpy as np

import imgrec_engine
from imgrec_engine import device, kernels


def report() -> str:
    """Versions, devices (and why one is absent), threads and optional packages, one to a line."""
    _, context = kernels.of(np.empty(0))
    optional = ("matplotlib", "sklearn", "skimage", "cupy")
    found = [name for name in optional if importlib.util.find_spec(name) is not None]
    return "\n".join(
        [
            f"imgrec_engine  {imgrec_engine.__version__}",
            f"python         {platform.python_version()}, numpy {np.__version__}",
            f"device cpu     kernels built for {target()}, {context.threads} threads (IMGREC_NUM_THREADS)",
            "device cuda    absent: this version has no CUDA module",
            "device sim     absent: this version has no simulator module",
            f"default device {device.NAMES[0]}",
            f"optional       {', '.join(found) or 'none'} (of {', '.join(optional)})",
        ]
    )


def target() -> str:
    """The processor level that the CPU kernels in use were built for."""
    return str(kernels.modules()["cpu"].kernel_target())
