"""Stage 10: compute-sanitizer's four tools: each must find its bug in canary.cu, and none in the kernels.

In a rehearsal the same workloads run on the simulator, with its checkers where they are built.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gpu_check import machine
from gpu_check.stage import Rows, Setting, Skip, short

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
WORKLOADS = [sys.executable, "-m", "gpu_check.workloads"]


def run(setting: Setting, rows: Rows) -> str:
    """A row for each tool on the canary and on the workloads."""
    if setting.rehearsal:
        return rehearse(setting, rows)
    if shutil.which("compute-sanitizer") is None:
        raise Skip("compute-sanitizer is not on PATH")
    canary = build_canary(setting.work)
    environment = setting.environment()
    started = {tool: start(tool, [*WORKLOADS, "cuda", "small"], environment) for tool in TOOLS}
    for tool in TOOLS:
        errors, text = finish(start(tool, [str(canary), tool], environment))
        rows.add(f"{tool} finds the planted bug", bool(errors), errors=errors, said=text)
    for tool, process in started.items():
        errors, text = finish(process)
        rows.add(f"{tool} on the workloads", errors == 0 and "workloads done" in text, errors=errors, said=text)
    return f"{len(TOOLS)} tools, each with its planted bug, on small calls of all families"


def rehearse(setting: Setting, rows: Rows) -> str:
    """The workloads on the simulator."""
    checked = importlib.util.find_spec("imgrec_engine._sim_checked") is not None
    environment = {**setting.environment(), **({"IMGREC_SIM_CHECK": "race,bounds,uninit"} if checked else {})}
    command = [*WORKLOADS, "sim", "small", *([] if checked else ["conv2d", "norm"])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    rows.add("the workloads run", done.returncode == 0, said=short(done.stdout + done.stderr))
    checkers = "its checkers" if checked else "no checkers, which are not built"
    return f"the workloads on sim with {checkers}; compute-sanitizer needs a GPU"


def build_canary(work: Path) -> Path:
    """The program with the planted bugs."""
    source = Path(__file__).with_name("canary.cu")
    command = [*machine.nvcc(), "-lineinfo", str(source), "-o", str(work / "canary")]
    subprocess.run(command, check=True)
    return work / "canary"


def start(tool: str, command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """The command under a tool; the four run side by side."""
    words = ["compute-sanitizer", "--print-limit", "20", "--tool", tool, *command]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int | None, str]:
    """Errors that the tool counted, None where it did not come to an end, and what was said."""
    text = process.communicate()[0]
    return summary(text), short(text)


def summary(text: str) -> int | None:
    """The count in a tool's last line: "ERROR SUMMARY: 3 errors", "RACECHECK SUMMARY: 1 hazard displayed (...)"."""
    counts = re.findall(r"SUMMARY: (\d+) (?:error|hazard)", text)
    return int(counts[-1]) if counts else None
