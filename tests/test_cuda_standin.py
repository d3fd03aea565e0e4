"""The device `cuda` without a GPU: what is said where something is missing, and all of its Python on a stand-in."""

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import imgrec_engine as ie
from imgrec_engine import cuda, device, info
from imgrec_engine.errors import DeviceError

TESTS = Path(__file__).parent


def run_on_standin(*arguments):
    """Runs tests in a process of its own, in which the stand-in is what `import cupy` gives."""
    command = [sys.executable, "-m", "pytest", "-p", "standin_cupy", "-q", "-x", "-p", "no:cacheprovider", *arguments]
    paths = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    result = subprocess.run(
        command, cwd=TESTS.parent, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stdout[-8000:]
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout


needs_sim = pytest.mark.skipif("sim" not in device.names(), reason="the stand-in runs the simulator's kernels")


@needs_sim
def test_the_op_table_holds_on_the_standin():
    run_on_standin(str(TESTS / "test_ops.py"), "-k", "cuda")


@needs_sim
def test_tensors_streams_training_and_exchange_hold_on_the_standin():
    run_on_standin(str(TESTS / "test_cuda_device.py"), str(TESTS / "test_cuda_sharing.py"))


@needs_sim
def test_profiling_and_graphs_hold_on_the_standin():
    pages = [
        str(TESTS / f"test_{name}.py")
        for name in ("profiling", "capture", "capture_scaling", "capture_trainer", "deferred")
    ]
    run_on_standin(*pages, "-k", "not cpu and not sim")


@needs_sim
def test_mixed_precision_holds_on_the_standin():
    pages = [str(TESTS / "test_mixed_precision.py"), str(TESTS / "test_grad_scaler.py")]
    run_on_standin(*pages, "-k", "cuda and (cnn_lstm or not models)")


MODULE_ALONE = """
import ctypes, types
import ml_dtypes, numpy as np
from imgrec_engine import _cpu, _cuda
from imgrec_engine.errors import DTypeError, KernelError, ShapeError

class Array:
    def __init__(self, *shape, dtype=np.float32, address=512):
        self.dtype, self.shape, self.data = np.dtype(dtype), shape, types.SimpleNamespace(ptr=address)
        self.strides = np.empty(shape, dtype).strides

def refusal(*arguments, function=_cuda.activation_forward):
    try:
        function(context, *arguments)
    except (TypeError, ShapeError, DTypeError, KernelError) as error:
        return str(error).split("\\n")[0]

context = _cuda.Context(threads=1, sm_count=132, max_shared_bytes=232448, stream=4096, device=1)
assert (context.stream, context.device, context.sm_count) == (4096, 1, 132)
on_host = np.zeros(3, np.float32)
assert "an array of NumPy was given" in refusal(on_host, on_host, "relu")
_cuda.serve_arrays(Array)
assert "an array of NumPy was given" in refusal(Array(3), on_host, "relu")
assert "incompatible function arguments" in refusal(Array(3), types.SimpleNamespace(shape=(3,)), "relu")
assert "float32 (3,), but x is float32 (2, 3)" in refusal(Array(3), Array(2, 3), "relu")
assert "y is float32 (3,), expected bfloat16" in refusal(Array(3), Array(3, dtype=ml_dtypes.bfloat16), "relu")
assert "multiples of their size" in refusal(Array(3), Array(3, address=514), "relu")
assert "incompatible" in refusal(on_host, Array(3), "relu", function=_cpu.activation_forward)
try:
    ctypes.CDLL("libcuda.so.1")
except OSError:  # without a driver a launch can do no harm
    assert "driver" in refusal(Array(8), Array(8), "relu")
print("held")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("imgrec_engine._cuda") is None, reason="this build has no kernels for GPUs"
)
def test_the_module_for_gpus_loads_and_checks_without_one():
    result = subprocess.run([sys.executable, "-c", MODULE_ALONE], capture_output=True, text=True, timeout=60)
    assert result.stdout == "held\n", result.stderr


# --- what is missing --------------------------------------------------------------------------------------------------


def fake_cupy(count=1, driver=13000, capability="90", version="14.2.0"):
    error = type("CUDARuntimeError", (RuntimeError,), {})

    def count_devices():
        if count is None:
            raise error("cudaErrorNoDevice: no CUDA-capable device is detected")
        return count

    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: driver, getDeviceCount=count_devices, CUDARuntimeError=error
    )
    gpu = types.SimpleNamespace(compute_capability=capability)
    return types.SimpleNamespace(
        __version__=version, cuda=types.SimpleNamespace(runtime=runtime, Device=lambda index: gpu)
    )


@pytest.mark.parametrize(
    ("module", "cupy", "name", "words"),
    [
        (None, fake_cupy(), "cuda", r"this build has no kernels for GPUs; .*IMGREC_CUDA=ON` builds them"),
        (object(), None, "cuda", r"CuPy is not installed; `pip install imgrec_engine\[cuda13\]`"),
        (object(), fake_cupy(version="13.6.0"), "cuda", r"CuPy is of version 13.6.0, 14 or later is needed"),
        (object(), fake_cupy(driver=0), "cuda:2", r"no driver for NVIDIA GPUs is loaded on this machine"),
        (object(), fake_cupy(count=None), "cuda", r"cudaErrorNoDevice"),
        (object(), fake_cupy(count=0), "cuda", r"this machine has no GPU"),
        (object(), fake_cupy(count=1), "cuda:1", r"this machine has one GPU, cuda"),
        (object(), fake_cupy(count=4), "cuda:7", r"this machine has 4 GPUs"),
        (object(), fake_cupy(capability="75"), "cuda", r"compute capability 7.5, and the kernels need 8.0 or later"),
    ],
)
def test_what_is_missing_is_said(monkeypatch, module, cupy, name, words):
    monkeypatch.setitem(sys.modules, "imgrec_engine._cuda", module)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cuda, "_usable", set())
    for ask in (
        lambda: ie.zeros(2, device=name),
        lambda: ie.ones(2).to(name),
        lambda: ie.nn.Linear(2, 3).to(device=name),
    ):
        with pytest.raises(DeviceError, match=f"device {name!r} is not available: .*{words}"):
            ask()
    if name == "cuda":
        assert "cuda" not in device.names()
        with pytest.raises(DeviceError) as caught:
            device.check(name)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # it looks at modules, and ours are none
        assert f"device cuda    absent: {str(caught.value).partition(': ')[2]}" in info.report()


@pytest.mark.parametrize("name", ["cuda:", "cuda:x", "cuda:-1", "cudax", "cuda1"])
def test_other_names_are_refused(name):
    with pytest.raises((DeviceError, ie.errors.DTypeError), match=name):
        ie.zeros(2, device=name)


def test_the_package_does_not_import_cupy():
    code = "import sys, imgrec_engine as ie; (ie.ones(2) * 2).sum(); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"cupy", "imgrec_engine._cuda"} & set(result.stdout.split())
