"""The op table with the kernels of each lower level of the processor, which glibc chooses where it is told to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgrec_engine import _cpu

HIDDEN = {"x86-64-v3": "-AVX512F", "baseline": "-AVX512F,-AVX2"}


def python(level, *arguments):
    environment = {**os.environ, "GLIBC_TUNABLES": f"glibc.cpu.hwcaps={HIDDEN[level]}"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=280
    )


@pytest.mark.slow
@pytest.mark.skipif(_cpu.kernel_target() == "baseline", reason="the lowest level is what the suite itself runs at")
@pytest.mark.parametrize("level", HIDDEN)
def test_the_op_table_at_a_lower_level(level):
    loaded = python(level, "-c", "from imgrec_engine import _cpu; print(_cpu.kernel_target())").stdout.strip()
    assert loaded == level
    table = Path(__file__).with_name("test_ops.py")
    result = python(level, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "cpu", str(table))
    assert result.returncode == 0, result.stdout[-4000:]
