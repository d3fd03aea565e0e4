"""Is a run that was killed and resumed the same run? One is trained straight through, one is killed; all is compared.

    python examples/kill_and_resume.py [--recipe digits] [--epochs 3] [--out runs/kill-and-resume]

The second run is ended by SIGKILL, which no program can answer, once in the midst of every epoch but the first, and
continued with `imgrec train --resume` each time. Then all weights, averages, the optimiser's state and all that was
measured must be equal, bit for bit. Takes half a minute; the exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import imgrec_engine as ie
from imgrec_engine.train.events import Measurements

CLOCK = ("seconds", "images_per_second", "waited")  # of what is measured, all that may differ
CHECKPOINTS = ("best.safetensors", "last.safetensors")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits", help="see `imgrec recipes`")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/kill-and-resume"), help="a folder that is not there yet")
    options = parser.parse_args()
    straight, killed = options.out / "straight", options.out / "killed"
    if options.out.exists():
        parser.error(f"{options.out}: already exists")
    settings = ["--recipe", options.recipe, "--epochs", str(options.epochs)]
    finish(train(settings, straight))
    print(f"straight: {options.epochs} epochs of the recipe {options.recipe}")
    for epoch in range(2, options.epochs + 1):
        kill_within(epoch, train(settings, killed, resume=epoch > 2), killed)
    finish(train(settings, killed, resume=options.epochs > 1))
    print("killed:   resumed for the last time, and finished")
    return 0 if compare(straight, killed) else 1


def train(settings: list[str], out: Path, resume: bool = False) -> subprocess.Popen[bytes]:
    """`imgrec train`, in a process of its own that has begun."""
    command = [sys.executable, "-m", "imgrec_engine.cli", "train", *settings, "--out", str(out)]
    return subprocess.Popen([*command, "--resume"] if resume else command, stdout=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Waits for the end of a training that should end well."""
    if code := process.wait():
        sys.exit(f"the training ended with code {code}")


def kill_within(epoch: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kills the training after half of the time of an epoch, counted from when the epoch before is recorded."""
    measurements = Measurements(folder)
    while len(records := measurements.read()) < epoch - 1:
        if process.poll() is not None:
            sys.exit(f"the training ended with code {process.returncode} before it could be killed")
        time.sleep(0.005)
    time.sleep(records[-1]["seconds"] / 2)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        sys.exit(f"the training ended with code {process.returncode} before it could be killed")
    print(f"killed:   by SIGKILL half an epoch after the record of epoch {len(measurements.read())}")


def compare(straight: Path, killed: Path) -> bool:
    """Prints what the two runs have in common; whether that is all."""
    same = True
    for name in CHECKPOINTS:
        (first, told), (second, told_second) = (ie.load(folder / name) for folder in (straight, killed))
        differing = [key for key in first.keys() | second.keys() if not same_bits(first.get(key), second.get(key))]
        values = sum(tensor.size for tensor in first.values())
        print(f"{name}: {len(first)} tensors, {values:,} values: {verdict(differing)}; ", end="")
        print(f"its other state: {verdict([] if told == told_second else ['it'])}")
        same = same and not differing and told == told_second
    first_records, second_records = measured(straight), measured(killed)
    figures = sum(map(len, first_records))
    differing = [] if first_records == second_records else ["they"]
    print(f"metrics.jsonl: {len(first_records)} records, {figures} figures without the clock's: {verdict(differing)}")
    return same and not differing


def same_bits(first: Any, second: Any) -> bool:
    """Whether both are there, of one shape and dtype, with the same bytes."""
    if first is None or second is None:
        return False
    arrays = first.numpy(), second.numpy()
    described, described_too = ((array.shape, array.dtype, array.tobytes()) for array in arrays)
    return bool(described == described_too)


def measured(folder: Path) -> list[dict[str, Any]]:
    """What a run measured, without what the clock says."""
    records = Measurements(folder).read()
    return [{name: value for name, value in record.items() if name not in CLOCK} for record in records]


def verdict(differing: list[str]) -> str:
    return f"DIFFERENT: {', '.join(sorted(differing))}" if differing else "equal to the last bit"


if __name__ == "__main__":
    sys.exit(main())
