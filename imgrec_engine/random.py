"""Random numbers: Philox4x32-10 indexed by (seed, offset, element), so every device and thread count draws the same.

The seed and the offset live in an int64 array that the kernels read; each draw advances the offset by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imgrec_engine import device as devices
from imgrec_engine import kernels
from imgrec_engine.dtypes import as_dtype, float32, float64, is_floating
from imgrec_engine.errors import DTypeError
from imgrec_engine.ops.shape import lengths_of
from imgrec_engine.tensor import Tensor

_state: Any = np.zeros(2, dtype=np.int64)  # on the device of the last draw


def manual_seed(seed: int) -> None:
    """Starts the random numbers anew: what follows depends on ``seed`` (0 <= seed < 2**63) alone.

    >>> import imgrec_engine as ie
    >>> ie.manual_seed(7)
    >>> first = ie.rand(3)
    >>> ie.manual_seed(7)
    >>> bool((first == ie.rand(3)).all())
    True
    """
    if not isinstance(seed, (int, np.integer)):
        raise TypeError(f"manual_seed: seed is {seed!r}, expected a whole number")
    if not 0 <= seed < 2**63:
        raise ValueError(f"manual_seed: seed is {seed}, expected 0 <= seed < 2**63")
    set_state((seed, 0))


def get_state() -> tuple[int, int]:
    """(seed, offset): where the random numbers stand."""
    seed, offset = devices.to_numpy(_state).tolist()
    return seed, offset


def set_state(state: tuple[int, int]) -> None:
    """Continues from a state that ``get_state`` returned."""
    devices.write(_state, np.array(state, dtype=np.int64))


def bring(state: Any) -> None:
    """From now on the state lies in this array: one of a captured step, which advances it there."""
    global _state
    if _state is not state:
        devices.write(state, _state)
        _state = state


def state_on(like: Any) -> Any:
    """The array with the state, brought to the device of ``like``."""
    global _state
    _state = devices.beside(_state, like)
    return _state


def next_state(like: Any) -> Any:
    """The state for one draw, on the device of ``like``; a backward pass that needs the same numbers again keeps it."""
    current = state_on(like)
    state = devices.place(current.copy(), type(like))
    current[1] += 1
    return state


def _draw(
    kernel: str, shape: Sequence[int], dtype: Any, first: float, second: float, device: str, requires_grad: bool
) -> Tensor:
    wanted = as_dtype(dtype)
    if not is_floating(wanted):
        raise DTypeError(f"{kernel}: dtype is {wanted.name}, expected a floating one")
    out = devices.empty_on(device, shape, float64 if wanted == float64 else float32)
    with devices.on(out):
        module, context = kernels.of(out)
        getattr(module, kernel)(context, out, next_state(out), first, second)
        return Tensor(out.astype(wanted, copy=False), requires_grad)


def rand(
    *shape: int | Sequence[int],
    dtype: Any = float32,
    low: float = 0.0,
    high: float = 1.0,
    device: str = "cpu",
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [low, high).

    >>> import imgrec_engine as ie
    >>> ie.rand(2, 3).shape
    (2, 3)
    """
    return _draw("random_uniform", lengths_of(shape), dtype, low, high, device, requires_grad)


def randn(
    *shape: int | Sequence[int],
    dtype: Any = float32,
    mean: float = 0.0,
    std: float = 1.0,
    device: str = "cpu",
    requires_grad: bool = False,
) -> Tensor:
    """Normal numbers with the mean and standard deviation given.

    >>> import imgrec_engine as ie
    >>> ie.randn((2, 3), dtype="float64").dtype.name
    'float64'
    """
    return _draw("random_normal", lengths_of(shape), dtype, mean, std, device, requires_grad)
