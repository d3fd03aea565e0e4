"""The same sources for other compilers and processors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif("IMGREC_SIM_PROGRAM" in os.environ, reason="built without the page's example")
def test_the_example_of_the_page_on_writing_kernels(program, schedule):
    x = np.random.default_rng(9).standard_normal((3, 1000)).astype(np.float32)
    y = program("row_sum", x, dtype=np.float32, schedule=schedule)
    np.testing.assert_allclose(y, x.sum(axis=1), rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_nvcc_accepts_the_programs(tmp_path, architecture):
    if not shutil.which("nvcc"):
        pytest.skip("nvcc is not installed")
    for source in sorted((ROOT / "tests" / "sim").glob("*.cu")):
        options = ["-std=c++20", f"-arch={architecture}", "-Icsrc", "-I.", "-c", source, "-o", tmp_path / "object.o"]
        done = subprocess.run(["nvcc", *options], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_simulator_on_aarch64():
    if "IMGREC_SIM_PROGRAM" in os.environ:
        pytest.skip("this is that run")
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        ["scripts/aarch64.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
