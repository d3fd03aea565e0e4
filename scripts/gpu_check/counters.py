"""Stage 9: what the hardware counts in the kernels of five workloads, by Nsight Compute."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator

from gpu_check.stage import Rows, Setting, Skip, short

SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "LaunchStats", "Occupancy", "ComputeWorkloadAnalysis")
WORKLOADS = ("conv2d", "lstm", "attention", "norm", "loss")
MOST_LAUNCHES = 12  # of each workload


def run(setting: Setting, rows: Rows) -> str:
    """A row for each launch of a kernel of ours, with all that the sections hold."""
    if setting.rehearsal:
        raise Skip("there is no hardware to count; `imgrec inspect` counts on the simulator")
    if shutil.which("ncu") is None:
        raise Skip("ncu is not on PATH")
    for workload in WORKLOADS:
        command = ["ncu", "--clock-control", "none", "--csv", "--page", "details"]
        command += ["--kernel-name-base", "mangled", "--kernel-name", "regex:imgrec"]
        command += ["--launch-count", str(MOST_LAUNCHES), *(f"--section={section}" for section in SECTIONS)]
        command += [sys.executable, "-m", "gpu_check.workloads", setting.device, "large", workload]
        done = subprocess.run(command, env=setting.environment(), capture_output=True, text=True, check=False)
        launches = list(read(done.stdout))
        for kernel, metrics in launches:
            rows.add(f"{workload}: {kernel}", metrics=metrics)
        if not launches:
            rows.add(workload, held=False, said=short(done.stdout + done.stderr))
    return f"{rows.count} launches of the kernels of {', '.join(WORKLOADS)}"


def read(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The launches in what ncu prints as CSV after lines of its own: the kernel, and its metrics with their units."""
    start = text.find('"ID"')
    launches: dict[str, tuple[str, dict[str, str]]] = {}
    for line in csv.DictReader(io.StringIO(text[start:])) if start >= 0 else ():
        if line.get("Metric Name"):
            _, metrics = launches.setdefault(line["ID"], (line["Kernel Name"], {}))
            metrics[line["Metric Name"]] = f"{line['Metric Value']} {line['Metric Unit']}".strip()
    yield from launches.values()
