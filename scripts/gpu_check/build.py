"""Stage 1: builds the package for this machine's GPU, offline, and reads what the assembler said of each kernel.

A rehearsal goes as far as seconds reach: pip takes the same command with --dry-run, CMake configures with the same
settings, and one file of kernels is compiled and its report read.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_resources

from gpu_check import machine
from gpu_check.stage import ROOT, Rows, Setting, Skip, short

REHEARSED = "activation.cu"  # the file whose kernels compile fastest
REHEARSED_FOR = "90a"


def run(setting: Setting, rows: Rows) -> str:
    """Rows: the installation, a resource report for each source file, and what `imgrec info` says."""
    if setting.rehearsal:
        return rehearse(setting, rows)
    build = setting.work / "build"
    install(setting.site, build, machine.architecture())
    rows.add("installed", architecture=machine.architecture())
    reports = cuda_resources.read(build)
    for report in reports:
        rows.add(report.source, seconds=report.seconds, kernels=[dataclasses.asdict(k) for k in report.kernels])
    spilling = cuda_resources.unexplained_spills(reports)
    rows.add("no kernel spills without a reason", held=bool(reports) and not spilling, spilling=spilling)
    code = (
        "import imgrec_engine; from imgrec_engine import info; print(imgrec_engine.__file__, info.report(), sep='\\n')"
    )
    info = subprocess.run(
        [sys.executable, "-c", code], env=setting.environment(), capture_output=True, text=True, check=False
    )
    place, _, report_text = info.stdout.partition("\n")
    ours = Path(place).is_relative_to(setting.site)
    present = "device cuda    absent" not in report_text and info.returncode == 0
    rows.add("the device is there", held=ours and present, report=short(report_text or info.stderr))
    kernels = [kernel for report in reports for kernel in report.kernels]
    most = max((kernel.registers for kernel in kernels), default=0)
    return f"{len(kernels)} kernels, at most {most} registers, {len(spilling)} spill without a reason"


def rehearse(setting: Setting, rows: Rows) -> str:
    """Rows: pip's dry run, CMake's configuration, and the report of one file; Skip where a tool is missing."""
    programs = {name: shutil.which(name) for name in ("cmake", "ninja", "nvcc")}
    missing = [name for name in ("pip", "scikit_build_core", "pybind11") if importlib.util.find_spec(name) is None]
    missing += [name for name, found in programs.items() if found is None]
    cmake = programs["cmake"]
    if missing or cmake is None:
        raise Skip(f"nothing to build with: {', '.join(missing)} missing")
    install(setting.site, setting.work / "build", REHEARSED_FOR, "--dry-run")
    rows.add("pip takes the command", architecture=REHEARSED_FOR)
    build = setting.work / "rehearsal"
    defined = {
        **definitions(REHEARSED_FOR),
        "CMAKE_BUILD_TYPE": "Release",
        "Python_EXECUTABLE": sys.executable,
    }
    pybind11 = machine.said(sys.executable, "-m", "pybind11", "--cmakedir")
    configure = [cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", f"-Dpybind11_DIR={pybind11}"]
    subprocess.run([*configure, *(f"-D{name}={value}" for name, value in defined.items())], check=True)
    rows.add("CMake configures")
    target = f"csrc/cuda/CMakeFiles/imgrec_cuda_kernels.dir/{REHEARSED}.o"
    subprocess.run([cmake, "--build", str(build), "--target", target], check=True)
    (report,) = cuda_resources.read(build)
    kernels = [dataclasses.asdict(kernel) for kernel in report.kernels]
    rows.add(REHEARSED, held=bool(kernels) and not cuda_resources.unexplained_spills([report]), kernels=kernels)
    return f"pip and CMake take the command; {len(kernels)} kernels of {REHEARSED} compiled for {REHEARSED_FOR}"


def definitions(architecture: str) -> dict[str, str]:
    """What CMake is told: kernels for this architecture only."""
    return {"IMGREC_CUDA": "ON", "IMGREC_CUDA_ARCHITECTURES": f"{architecture}-real"}


def install(site: Path, build: Path, architecture: str, *options: str) -> None:
    """Installs the package in a folder with what is there: no index, no dependencies, no isolated build."""
    settings = {f"cmake.define.{name}": value for name, value in definitions(architecture).items()}
    settings["build-dir"] = str(build)
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--upgrade"]
    command += ["--target", str(site), *(f"--config-settings={name}={value}" for name, value in settings.items())]
    command += [*options, "."]
    parallel = {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count())}
    subprocess.run(command, cwd=ROOT, env={**os.environ, "IMGREC_CUDA": "ON", **parallel}, check=True)
