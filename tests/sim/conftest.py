"""The programs of tests/sim/*.cu: built once, each case run as a process of its own."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```cpp\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Program:
    """Runs cases of the program: arrays in, arrays out."""

    def __init__(self, command):
        self.command = command

    def start(self, case, *inputs, numbers=(), threads=1, schedule="eager"):
        words = [*self.command, case, str(threads), *map(str, numbers)]
        data = b"".join(np.ascontiguousarray(array).tobytes() for array in inputs)
        environment = {**os.environ, "IMGREC_SIM_SCHEDULE": schedule}
        return subprocess.run(words, input=data, capture_output=True, env=environment, timeout=60, check=False)

    def __call__(self, case, *inputs, dtype=np.int32, **settings):
        """What the case wrote, as one array."""
        done = self.start(case, *inputs, **settings)
        assert done.returncode == 0, done.stderr.decode()
        return np.frombuffer(done.stdout, dtype)

    def error(self, case, *inputs, **settings):
        """The message of a launch that fails."""
        done = self.start(case, *inputs, **settings)
        assert done.returncode == 1, (done.returncode, done.stderr.decode())
        return done.stderr.decode()


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    if built := os.environ.get("IMGREC_SIM_PROGRAM"):  # scripts/aarch64.sh: an emulator and what it runs
        return Program(shlex.split(built))
    if not shutil.which("g++") or not shutil.which("make"):
        pytest.skip("g++ and make build the programs of tests/sim")
    build = tmp_path_factory.mktemp("sim")
    example = build / "example.cu"
    example.write_text("".join(FENCE.findall((ROOT / "docs/kernels/writing.md").read_text("utf-8"))), "utf-8")
    command = ["make", "-s", "-f", "csrc/sim/program.mk", "-j2", f"BUILD={build}", "CXX=g++"]
    command.append(f"SOURCES=tests/sim/*.cu {example}")
    subprocess.run(command, cwd=ROOT, check=True, timeout=200)
    return Program([build / "program"])


@pytest.fixture(params=["eager", "lazy", "reversed"])
def schedule(request):
    return request.param
