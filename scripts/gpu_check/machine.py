"""What results depend on besides the code: GPU, driver, compilers, packages, commit."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from typing import Any

from gpu_check.stage import ROOT

PACKAGES = (
    "numpy",
    "ml_dtypes",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "torch",
    "nvidia-cudnn-cu13",
    "pybind11",
    "scikit-build-core",
    "cmake",
    "ninja",
    "pytest",
)
GPU_FIELDS = ("name", "driver_version", "compute_cap", "memory.total")


def said(*command: str) -> str:
    """What a command prints; nothing where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


@functools.cache
def gpus() -> list[dict[str, str]]:
    """The machine's GPUs as the driver describes them."""
    lines = said("nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader").splitlines()
    return [dict(zip(GPU_FIELDS, (field.strip() for field in line.split(",")), strict=True)) for line in lines]


def capability() -> int:
    """The first GPU's compute capability: 90 for 9.0."""
    return int(gpus()[0]["compute_cap"].replace(".", ""))


def architecture() -> str:
    """The first GPU's: 80, or 90a with what only Hopper has."""
    return f"{capability()}{'a' if capability() == 90 else ''}"


def nvcc() -> list[str]:
    """The compiler, told to make code for the first GPU alone."""
    return ["nvcc", f"-gencode=arch=compute_{architecture()},code=sm_{architecture()}"]


def describe(commit: str | None) -> dict[str, Any]:
    """All of it; ``commit`` is for copies of the sources that know none."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    release = re.search(r"release (\S+), V(\S+)", said("nvcc", "--version"))
    return {
        "gpus": gpus(),
        "commit": commit or said("git", "rev-parse", "HEAD") or None,
        "changed_files": said("git", "status", "--porcelain", "--untracked-files=no").splitlines(),
        "nvcc": release[2] if release else None,
        "compiler": said("g++", "-dumpfullversion") or None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores",
        "packages": versions,
    }
