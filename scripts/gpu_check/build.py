"""Stage 1: builds the package for this machine's GPU, offline, and reads what the assembler said of each kernel."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import cuda_resources

from gpu_check import machine
from gpu_check.stage import ROOT, Rows, Setting, Skip, short


def run(setting: Setting, rows: Rows) -> str:
    """Rows: the installation, a resource report for each source file, and what `imgrec info` says."""
    if setting.rehearsal:
        raise Skip("a rehearsal takes the package as it is installed")
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


def install(site: Path, build: Path, architecture: str) -> None:
    """Installs the package in a folder with what is there: no index, no dependencies, no isolated build."""
    settings = {
        "cmake.define.IMGREC_CUDA": "ON",
        "cmake.define.IMGREC_CUDA_ARCHITECTURES": f"{architecture}-real",
        "build-dir": str(build),
    }
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--upgrade"]
    command += ["--target", str(site), *(f"--config-settings={name}={value}" for name, value in settings.items()), "."]
    parallel = {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count())}
    subprocess.run(command, cwd=ROOT, env={**os.environ, "IMGREC_CUDA": "ON", **parallel}, check=True)
