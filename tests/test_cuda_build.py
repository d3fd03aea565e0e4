"""The module with the kernels for GPUs: when it is built, and that it loads where there is no GPU."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgrec_engine import _cpu

ROOT = Path(__file__).parents[1]
needs_cmake = pytest.mark.skipif(
    shutil.which("cmake") is None or importlib.util.find_spec("pybind11") is None, reason="no cmake or no pybind11"
)


@pytest.fixture(scope="module")
def configure(tmp_path_factory):
    """Configures, in one folder because compilers are looked at once there, with a CUDA compiler that does not work."""
    pybind11 = pytest.importorskip("pybind11")
    cmake = shutil.which("cmake") or pytest.skip("no cmake on PATH")
    place = tmp_path_factory.mktemp("build")
    common = {"pybind11_DIR": pybind11.get_cmake_dir(), "Python_EXECUTABLE": sys.executable, "IMGREC_SIM": "OFF"}
    environment = {**os.environ, "CUDACXX": shutil.which("false")}

    def run(**definitions):
        options = [f"-D{name}={value}" for name, value in (common | definitions).items()]
        command = [cmake, "-S", str(ROOT), "-B", str(place), *options]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
        return result.returncode, result.stdout, " ".join(result.stderr.split())

    return run


def test_without_a_compiler_auto_says_so_in_one_line(configure):
    code, out, _ = configure(IMGREC_CUDA="AUTO")
    assert code == 0
    lines = [line for line in out.splitlines() if "CUDA" in line]
    assert len(lines) == 1
    assert "without kernels for GPUs: no CUDA compiler that works was found" in lines[0]


def test_without_a_compiler_on_fails(configure):
    code, _, error = configure(IMGREC_CUDA="ON")
    assert code != 0
    assert "IMGREC_CUDA=ON, but no CUDA compiler that works was found on PATH or in CUDACXX" in error


def test_off_is_silent(configure):
    code, out, _ = configure(IMGREC_CUDA="OFF")
    assert code == 0
    assert "CUDA" not in out


def test_another_value_is_refused(configure):
    code, _, error = configure(IMGREC_CUDA="maybe")
    assert code != 0
    assert "IMGREC_CUDA is maybe, expected AUTO, ON or OFF" in error


@pytest.fixture
def cuda():
    if importlib.util.find_spec("imgrec_engine._cuda") is None:
        pytest.skip("no kernels for GPUs have been built; `make cuda` builds them")
    return importlib.import_module("imgrec_engine._cuda")


def test_it_has_all_functions_but_those_of_cupy(cuda):
    products, sums = {"matmul", "matmul_pack", "matmul_plan"}, {"add", "sum_rows", "sum_rows_plan"}
    assert set(dir(_cpu)) - set(dir(cuda)) == products | sums
