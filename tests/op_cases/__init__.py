"""The op table: a row for every op, gathered from one file a family (named as in imgrec_engine/ops)."""

import importlib
import pkgutil

from op_cases.table import OpCase

CASES: tuple[OpCase, ...] = tuple(
    case
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name)
    for case in getattr(importlib.import_module(f"op_cases.{module.name}"), "CASES", ())
)
