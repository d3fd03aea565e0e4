"""The command line of scripts/gpu_check.sh."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpu_check import machine, runner
from gpu_check.stage import ROOT, Setting
from gpu_check.stages import BUDGET, STAGES


def main() -> int:
    """0 where no stage failed, 1 where one did, 2 where there is no GPU to check."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.sh", description="Proves what only a GPU can prove.")
    parser.add_argument("--dry-run", action="store_true", help="what of it can run on the device sim")
    parser.add_argument("--out", type=Path, help="where gpu_check.json goes (default build/gpu_check/cuda/out)")
    parser.add_argument("--only", default="", help="stages, with commas: " + ",".join(stage.name for stage in STAGES))
    parser.add_argument("--commit", help="that the sources are of, where git does not know")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    if unknown := set(only) - {stage.name for stage in STAGES}:
        parser.error(f"no stage is called {', '.join(sorted(unknown))}")
    described = machine.describe(options.commit)
    if not options.dry_run and not described["gpus"]:
        print("gpu_check: nvidia-smi finds no GPU on this machine; --dry-run rehearses without one", file=sys.stderr)
        return 2
    device = "sim" if options.dry_run else "cuda"
    work = ROOT / "build" / "gpu_check" / device
    setting = Setting(device, work, options.out.resolve() if options.out else work / "out")
    results = runner.run_all(STAGES, setting, described, BUDGET, only)
    where = "rehearsal on the device sim" if setting.rehearsal else described["gpus"][0]["name"]
    print(f"\n{where}, commit {described['commit']}")
    for record in results["stages"]:
        print(runner.line(record))
    return int(any(record["status"] in ("failed", "ended") for record in results["stages"]))


if __name__ == "__main__":
    sys.exit(main())
