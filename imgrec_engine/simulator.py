"""The device `sim`: the CUDA kernels compiled as C++ and run, thread by thread, by a simulator on the host."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

from imgrec_engine.errors import DeviceError

MOST_SMS = 64
SHARED_KILOBYTES = (99, 163, 227)  # what a block may have with compute capability 8.6, 8.0 and 9.0
_BUILT_BY = {"_sim": "`pip install . -C cmake.define.IMGREC_SIM=ON`", "_sim_checked": "`make checked`"}


class SimArray(np.ndarray):
    """An array of the device `sim`: host memory, as NumPy's, with a type that says whose kernels serve it."""


def is_checked() -> bool:
    """Whether IMGREC_SIM_CHECK asks for the module that is built with the checkers."""
    return bool(os.environ.get("IMGREC_SIM_CHECK"))


def load(threads: int, allow_tf32: bool) -> tuple[Any, Any]:
    """The module, and a context with the simulated GPU's size; DeviceError, which says what builds it, without it."""
    name = "_sim_checked" if is_checked() else "_sim"
    try:
        module: Any = importlib.import_module(f"imgrec_engine.{name}")
    except ImportError as error:
        asked = " (IMGREC_SIM_CHECK asks for it)" if is_checked() else ""
        raise DeviceError(
            f"device 'sim' is not available: importing imgrec_engine.{name}{asked} fails ({error}); "
            f"{_BUILT_BY[name]} builds it"
        ) from error
    sm_count = _setting("IMGREC_SIM_SMS", 4, range(1, MOST_SMS + 1), f"a whole number from 1 to {MOST_SMS}")
    kilobytes = _setting("IMGREC_SIM_SHARED", SHARED_KILOBYTES[0], SHARED_KILOBYTES, "99, 163 or 227")
    return module, module.Context(
        threads=threads, sm_count=sm_count, max_shared_bytes=1024 * kilobytes, allow_tf32=allow_tf32
    )


def _setting(variable: str, default: int, allowed: tuple[int, ...] | range, expected: str) -> int:
    """A number from the environment."""
    text = os.environ.get(variable) or str(default)
    if not (text.isdecimal() and int(text) in allowed):
        raise ValueError(f"{variable} is {text!r}, expected {expected}")
    return int(text)
