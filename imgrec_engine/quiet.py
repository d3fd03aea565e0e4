"""NumPy without warnings, at a tenth of what entering ``np.errstate(all="ignore")`` costs: every operation runs so.

NumPy keeps what it does about errors in a context variable, which is public in the sense that any context shows it. It
is found here by what ``errstate`` changes.
"""

from __future__ import annotations

import contextvars
import functools
from typing import Any

import numpy as np


def _changed_by_errstate() -> tuple[contextvars.ContextVar[Any], Any]:
    """The context variable, and its value where errors are ignored."""
    outside = contextvars.copy_context()
    with np.errstate(all="ignore"):
        inside = contextvars.copy_context()
    (found,) = ((variable, value) for variable, value in inside.items() if outside.get(variable) is not value)
    return found


_errors, _ignored = _changed_by_errstate()


# From `enter` on, errors of NumPy's arithmetic on this thread are ignored; `leave` takes what it has returned.
enter = functools.partial(_errors.set, _ignored)
leave = _errors.reset
