"""Whether two frameworks computed the same."""

from __future__ import annotations

import numpy as np

from benchmarks.cases.case import Arrays

TOLERANCE = 2e-4  # of the largest value: far above float32's rounding in long sums, far below any mistake


class WrongResultError(Exception):
    """Results that differ by more than rounding; they are not timed."""


def check(ours: Arrays, theirs: Arrays) -> None:
    """WrongResultError unless all of their arrays are ours, up to rounding."""
    for name, expected in theirs.items():
        found = ours.get(name)
        if found is None or found.shape != expected.shape:
            seen = "missing" if found is None else f"of shape {found.shape}"
            raise WrongResultError(f"{name} is {seen}, expected shape {expected.shape}")
        scale = float(np.abs(expected).max(initial=0.0)) or 1.0
        error = float(np.abs(found - expected).max(initial=0.0)) / scale
        if not error <= TOLERANCE:  # NaN is wrong too
            raise WrongResultError(f"{name} differs by {error:.1e} of its largest value, allowed is {TOLERANCE:.0e}")
