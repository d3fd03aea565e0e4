"""Prints what each CUDA kernel takes of a GPU, as the build recorded it: scripts/cuda_resources.py build/dev

For each file the processor's seconds that nvcc took, and a line for each kernel and architecture: registers of a
thread, bytes of static shared memory, of stack, of spilled stores and loads, and of constants. A kernel that spills
registers to memory without a reason in scripts/cuda_spills.toml makes it fail.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ALLOWED_SPILLS = Path(__file__).with_name("cuda_spills.toml")


@dataclass
class Kernel:
    """What one kernel, or a function that it calls, takes on one architecture."""

    name: str
    architecture: str
    registers: int = 0
    shared: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    constant: int = 0

    @property
    def spills(self) -> bool:
        """Whether registers are kept in memory for want of more."""
        return self.spill_stores + self.spill_loads > 0


@dataclass
class Report:
    """What nvcc said of one file."""

    source: str
    seconds: float
    kernels: list[Kernel]


def read(build: Path) -> list[Report]:
    """The reports that the build in this folder left beside its object files, of sources that are older than they."""
    reports = []
    objects = build / "csrc" / "cuda" / "CMakeFiles" / "imgrec_cuda_kernels.dir"
    sources = Path(__file__).parents[1] / "csrc" / "cuda"
    for path in sorted(objects.rglob("*.cu.o.resources")):
        source = str(path.relative_to(objects)).removesuffix(".o.resources")
        if (sources / source).exists() and (sources / source).stat().st_mtime <= path.stat().st_mtime:
            time, _, text = path.read_text().partition("\n")
            reports.append(Report(source, float(time.split()[0]), parse(text)))
    return reports


def parse(text: str) -> list[Kernel]:
    """The kernels in what `ptxas -v` prints, in its order."""
    kernels: list[Kernel] = []
    architecture = ""
    for line in text.splitlines():
        if entry := re.search(r"Compiling entry function '.+' for '(\w+)'", line):
            architecture = entry[1]
        elif function := re.search(r"Function properties for (\S+)", line):
            kernels.append(Kernel(function[1], architecture))
        elif "bytes stack frame" in line:
            kernels[-1].stack, kernels[-1].spill_stores, kernels[-1].spill_loads = map(int, re.findall(r"\d+", line))
        elif used := re.search(r"Used (\d+) registers", line):
            kernels[-1].registers = int(used[1])
            kernels[-1].shared = sum(map(int, re.findall(r"(\d+) bytes smem", line)))
            kernels[-1].constant = sum(map(int, re.findall(r"(\d+) bytes cmem", line)))
    for kernel, name in zip(kernels, demangle(kernel.name for kernel in kernels), strict=True):
        kernel.name = short(name)
    return kernels


def demangle(names: Iterable[str]) -> list[str]:
    """The names as C++ spells them."""
    return subprocess.run(
        ["c++filt"],  # noqa: S607
        input="".join(f"{name}\n" for name in names),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


def short(name: str) -> str:
    """A demangled function without result, parameters and namespaces: conv2d_kernel<float, 64>."""
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    depth, end = 0, len(name)
    for place, sign in enumerate(name):
        depth += {"<": 1, ">": -1}.get(sign, 0)
        if sign == "(" and depth == 0:
            end = place
            break
    name = re.sub(r"\bimgrec::(cuda::)?", "", name[:end])
    name = re.sub(r"\((?:\w|::)+\)(?=\d)", "", name)  # (int)64 as a template's argument
    return name.replace("__half", "half").replace("__nv_bfloat16", "bfloat16")


def unexplained_spills(reports: Sequence[Report]) -> list[str]:
    """The kernels that spill without being listed, with a reason, in scripts/cuda_spills.toml."""
    allowed = tomllib.loads(ALLOWED_SPILLS.read_text())
    return [
        f"{report.source}: {kernel.name} on {kernel.architecture}"
        for report in reports
        for kernel in report.kernels
        if kernel.spills and kernel.name not in allowed.get(report.source, {})
    ]


def print_report(reports: Sequence[Report]) -> None:
    """The table, the slowest file first."""
    width = max((len(kernel.name) for report in reports for kernel in report.kernels), default=0)
    print(f"{'':<{width}}  arch    registers  shared  stack  spill stores  loads  constant")
    for report in sorted(reports, key=lambda report: -report.seconds):
        print(f"{report.source}, {report.seconds:.1f} s")
        for kernel in report.kernels:
            print(
                f"{kernel.name:<{width}}  {kernel.architecture:<7}{kernel.registers:>10}{kernel.shared:>8}"
                f"{kernel.stack:>7}{kernel.spill_stores:>14}{kernel.spill_loads:>7}{kernel.constant:>10}"
            )
    kernels = sum(len(report.kernels) for report in reports)
    print(f"{len(reports)} files, {kernels} kernels, {sum(report.seconds for report in reports):.0f} s of one core")


def main() -> int:
    """0, or 1 where a kernel spills without a reason."""
    reports = read(Path(sys.argv[1]))
    if not reports:
        print(f"{sys.argv[1]} holds no report: `make cuda` builds the kernels there", file=sys.stderr)
        return 1
    print_report(reports)
    spilling = unexplained_spills(reports)
    for kernel in spilling:
        print(f"{kernel} spills without a reason in {ALLOWED_SPILLS.name}")
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
