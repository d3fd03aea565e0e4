"""Runs the stages, each for its time, and keeps what they found in one file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_check.stage import ROOT, Setting, Stage, short

LARGEST_RESULTS = 16 << 20  # bytes
NOT_YET = "not run"


def run_all(
    stages: Sequence[Stage], setting: Setting, machine: dict[str, Any], budget: float, only: Sequence[str] = ()
) -> dict[str, Any]:
    """Runs the stages in order, or those named, and writes ``gpu_check.json`` anew after each."""
    for place in (setting.work, setting.out):
        place.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "device": setting.device,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine,
        "stages": [_record(stage, NOT_YET, "") for stage in stages],
    }
    end = time.monotonic() + budget
    for i, stage in enumerate(stages):
        left = end - time.monotonic()
        if only and stage.name not in only:
            record = _record(stage, "skipped", "not among those asked for")
        elif left < 1:
            record = _record(stage, "skipped", f"no time left of {budget:.0f} s")
        else:
            record = _run(stage, setting, min(stage.seconds, left))
        results["stages"][i] = record
        print(f"gpu_check: {record['name']} {record['status']}", flush=True)
        write(setting.out / "gpu_check.json", results)
    return results


def _record(stage: Stage, status: str, note: str) -> dict[str, Any]:
    return {"name": stage.name, "proves": stage.proves, "status": status, "note": note, "seconds": 0.0, "rows": []}


def _run(stage: Stage, setting: Setting, seconds: float) -> dict[str, Any]:
    """One stage in a process group of its own, of which nothing is left over at the end."""
    rows, log = (setting.work / f"{stage.name}.{kind}" for kind in ("rows", "log"))
    rows.write_text("")
    command = [sys.executable, "-m", "gpu_check.child", stage.module]
    command += [setting.device, str(setting.work), str(setting.out), str(rows)]
    start = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=setting.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
            ended = False
        except subprocess.TimeoutExpired:
            ended = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    record = _record(stage, *_read(rows, seconds if ended else None, process.returncode))
    record["rows"] = [found for found in _lines(rows) if "held" in found]
    record["seconds"] = round(time.monotonic() - start, 1)
    if record["status"] in ("failed", "ended"):
        record["log"] = short(log.read_text(errors="replace"))
    return record


def _lines(rows: Path) -> list[dict[str, Any]]:
    """All whole lines: a process that is killed may leave half of one."""
    return [json.loads(text) for text in rows.read_text().splitlines(keepends=True) if text.endswith("\n")]


def _read(rows: Path, limit: float | None, code: int) -> tuple[str, str]:
    """Status and note of a stage that ended by itself, at its limit, or by a fault."""
    lines = _lines(rows)
    if limit is not None:
        failed = sum(not found.get("held", True) for found in lines)
        return "ended", f"over its limit of {limit:.0f} s, after {len(lines)} rows, {failed} of them failed"
    if lines and "status" in lines[-1]:
        return lines[-1]["status"], lines[-1]["note"]
    return "failed", f"the process ended with code {code} after {len(lines)} rows"


def write(path: Path, results: dict[str, Any]) -> None:
    """Replaces the file; where it would be too large, the longest stages lose rows, and say how many."""
    while len(text := json.dumps(results, indent=1)) > LARGEST_RESULTS:
        longest = max(results["stages"], key=lambda record: len(json.dumps(record["rows"])))
        kept = len(longest["rows"]) // 2
        longest["rows_left_out"] = longest.get("rows_left_out", 0) + len(longest["rows"]) - kept
        del longest["rows"][kept:]
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n")
    partial.replace(path)


def line(record: dict[str, Any]) -> str:
    """A line of the table."""
    return f"{record['name']:<12} {record['status']:<8} {record['seconds']:>6.1f} s  {record['note']}"
