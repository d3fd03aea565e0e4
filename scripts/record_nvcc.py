"""Runs nvcc for the build, and keeps what its assembler says of each kernel: record_nvcc.py nvcc ... -o OBJECT

OBJECT.resources gets a line with the processor's seconds and the assembler's report, for scripts/cuda_resources.py to
read. All else that nvcc says goes on to the terminal.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """The compiler's exit code."""
    command = sys.argv[1:]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = [f"{used.ru_utime + used.ru_stime:.1f} seconds"]
    for line in result.stdout.splitlines():
        if line.startswith(("ptxas info", "    ")):
            report.append(line)
        else:
            print(line, file=sys.stderr)
    if result.returncode == 0 and "-o" in command:
        Path(command[command.index("-o") + 1] + ".resources").write_text("\n".join(report) + "\n")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
