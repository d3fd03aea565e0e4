"""IMGREC_DEBUG: 1 prints each op with shapes, dtype, algorithm and time; 2 also looks for NaN and Inf."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imgrec_engine import device as devices
from imgrec_engine import observe
from imgrec_engine.dtypes import is_floating

LONGEST_ARGUMENT = 80  # characters of a value that is no array
_wanted = os.environ.get("IMGREC_DEBUG") or "0"
if _wanted not in ("0", "1", "2"):
    raise ValueError(f"IMGREC_DEBUG is {_wanted!r}, expected 0, 1 or 2")
level = int(_wanted)


def _describe(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"{value.dtype.name}{list(value.shape)}"
    if isinstance(value, (list, tuple)) and any(hasattr(item, "shape") for item in value):
        return "[" + ", ".join(_describe(item) for item in value) + "]"
    text = repr(value)
    return text if len(text) <= LONGEST_ARGUMENT else f"{text[:LONGEST_ARGUMENT]}..."


def describe_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """An op's arguments for a message, tensors as dtype[shape]."""
    return ", ".join([*map(_describe, args), *(f"{name}={_describe(value)}" for name, value in kwargs.items())])


@contextlib.contextmanager
def _print(call: observe.Call) -> Iterator[None]:
    """Prints one line on stderr for an op; level 2 raises FloatingPointError where an output is not finite."""
    start = time.perf_counter()
    yield
    elapsed = 1e3 * (time.perf_counter() - start)
    if call.phase != "forward":
        return
    outputs = call.result[0] if isinstance(call.result[0], tuple) else (call.result[0],)
    shown = describe_arguments(call.args, call.kwargs)
    chosen = "/".join(filter(None, call.algorithms))
    arrow = ", ".join(map(_describe, outputs))
    print(f"imgrec: {call.name}({shown}) -> {arrow} {chosen} {elapsed:.3f} ms", file=sys.stderr)  # noqa: T201
    if level >= 2:
        for output in outputs:
            if is_floating(output.dtype) and not np.isfinite(devices.to_numpy(output).astype(np.float64)).all():
                raise FloatingPointError(f"{call.name}: its output {_describe(output)} holds NaN or Inf")


if level:
    observe.add(_print)
