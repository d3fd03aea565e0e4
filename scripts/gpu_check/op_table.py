"""Stage 2: the op table on the GPU against float64: the suite's own tests, then the largest errors."""

from __future__ import annotations

import importlib.util
from collections import Counter
from typing import Any

import op_errors
import pytest

from gpu_check import table
from gpu_check.stage import ROOT, Rows, Setting, short
from imgrec_engine.dtypes import float64

WORKERS = 8  # processes that share the GPU: most of the time goes into Python and into CuPy's compiling
MOST_FAILURES = 200  # that are told one by one


class Recorder:
    """A plugin for pytest that keeps what became of each test."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts a test once it has run, or has failed to start; tells failures at once."""
        if report.when != "call" and not report.failed:
            return
        name = report.nodeid.partition("::")[2]
        self.outcomes[name.partition("[")[0], report.outcome] += 1
        if report.failed and self.rows.failed < MOST_FAILURES:
            self.rows.add(name, held=False, message=short(report.longreprtext)[-600:])


def run(setting: Setting, rows: Rows) -> str:
    """Rows: each failed test, the tests by what they prove, and the errors of each op."""
    passed, failed = run_tests(setting, rows)
    worst: dict[str, float] = {}
    for case in table.cases(setting):
        errors: dict[str, dict[str, float]] = {"values": {}, "gradients": {}}
        for dtype in (float64, *case.dtypes):
            errors["values"][dtype.name] = op_errors.value_error(case, dtype, setting.device)
            if case.differentiable and dtype != float64:
                errors["gradients"][dtype.name] = op_errors.gradient_error(case, dtype, setting.device)
        rows.add(case.name, largest_errors=errors)
        for name, error in errors["values"].items():
            worst[name] = max(worst.get(name, 0.0), error)
    told = ", ".join(f"{name} {error:.1e}" for name, error in worst.items())
    return f"{passed} tests passed, {failed} failed; largest errors {told}"


def run_tests(setting: Setting, rows: Rows) -> tuple[int, int]:
    """How many tests of tests/test_ops.py passed and failed on the device."""
    wanted = setting.device
    if setting.rehearsal:
        wanted += " and (" + " or ".join(f"{case.name}-" for case in table.cases(setting)) + ")"
    # A warning of CuPy's must not hide the values.
    options: list[Any] = ["-q", "-p", "no:cacheprovider", "-W", "default", "-k", wanted]
    if not setting.rehearsal and importlib.util.find_spec("xdist"):
        options += ["-n", str(WORKERS)]
    recorder = Recorder(rows)
    code = pytest.main([str(ROOT / "tests" / "test_ops.py"), *options], plugins=[recorder])
    for (name, outcome), count in sorted(recorder.outcomes.items()):
        rows.add(f"{name}: {outcome}", held=outcome != "failed", tests=count)
    passed, failed = (sum(n for (_, o), n in recorder.outcomes.items() if o == kind) for kind in ("passed", "failed"))
    rows.add("the tests ran", held=code in (0, 1) and passed > 0, exit_code=int(code))
    return passed, failed
