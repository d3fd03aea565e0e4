"""What nvcc says of the CUDA kernels: no kernel spills registers without a reason. Needs nvcc, but no GPU."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import cuda_resources  # noqa: E402

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")

# 64 values live at once, with 32 registers to hold them.
SPILLING = """
__global__ void __launch_bounds__(1024, 2) planted(float* values, int steps) {
  float kept[64];
  for (int i = 0; i < 64; ++i) kept[i] = values[i * 1024 + threadIdx.x];
  for (int step = 0; step < steps; ++step)
    for (int i = 0; i < 64; ++i) kept[i] = kept[i] * kept[(i + 7) % 64] + kept[(i + 13) % 64];
  for (int i = 0; i < 64; ++i) values[i * 1024 + threadIdx.x] = kept[i];
}
"""

PRINTED = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN6imgrec4cuda12_GLOBAL__N_111some_kernelI6__halfLi64EEEvPKT_' for 'sm_80'
ptxas info    : Function properties for _ZN6imgrec4cuda12_GLOBAL__N_111some_kernelI6__halfLi64EEEvPKT_
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 4096 bytes smem, 376 bytes cmem[0], 8 bytes cmem[2]
"""


def test_the_report_is_read():
    (kernel,) = cuda_resources.parse(PRINTED)
    assert kernel == cuda_resources.Kernel("some_kernel<half, 64>", "sm_80", 168, 4096, 16, 12, 8, 384)


@needs_nvcc
def test_a_planted_spill_is_seen(tmp_path):
    (tmp_path / "planted.cu").write_text(SPILLING)
    compiler = [
        "nvcc",
        "-arch=sm_80",
        "-Xptxas=-v",
        "-c",
        str(tmp_path / "planted.cu"),
        "-o",
        str(tmp_path / "out.cu.o"),
    ]
    recorder = [sys.executable, str(ROOT / "scripts" / "record_nvcc.py")]
    subprocess.run([*recorder, *compiler], check=True, timeout=120)
    time, _, text = (tmp_path / "out.cu.o.resources").read_text().partition("\n")
    kernels = cuda_resources.parse(text)
    assert [kernel.name for kernel in kernels] == ["planted"]
    assert kernels[0].registers == 32
    report = cuda_resources.Report("planted.cu", float(time.split()[0]), kernels)
    assert cuda_resources.unexplained_spills([report]) == ["planted.cu: planted on sm_80"]


def test_kernels_that_were_built_do_not_spill():
    """Whatever `make cuda`, or an installation with IMGREC_CUDA=ON, has compiled in this folder."""
    reports = [report for build in ROOT.glob("build/*") for report in cuda_resources.read(build)]
    if not reports:
        pytest.skip("no CUDA kernels have been built here; `make cuda` builds them")
    spilling = cuda_resources.unexplained_spills(reports)
    assert not spilling, "\n".join(spilling)


@pytest.mark.slow
@needs_nvcc
@pytest.mark.timeout(1200)
def test_no_kernel_spills():
    """Compiles what has changed since the last time."""
    place = ROOT / "build" / "cuda-resources"
    pybind11 = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    options = [
        "-DIMGREC_CUDA=ON",
        "-DIMGREC_SIM=OFF",
        f"-Dpybind11_DIR={pybind11}",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    subprocess.run(["cmake", "-S", str(ROOT), "-B", str(place), *options], check=True, timeout=120)
    subprocess.run(
        ["cmake", "--build", str(place), "-j", "2", "--target", "imgrec_cuda_kernels"], check=True, timeout=900
    )
    reports = cuda_resources.read(place)
    assert sum(len(report.kernels) for report in reports) >= 16
    spilling = cuda_resources.unexplained_spills(reports)
    assert not spilling, "\n".join(spilling)
