"""What the extension modules take from the CPU's library when they are linked."""

import importlib
import re
import shutil
import subprocess

import pytest

CUPYS_ON_GPUS = {"matmul", "matmul_pack", "matmul_plan", "add", "sum_rows", "sum_rows_plan"}
# Its threads and its memory.
HOST = {"cpu::parallel_tasks", "begin_operation", "give_array", "poisons_memory", "serves_host_memory"}


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm lists what a module takes; it comes with binutils")
@pytest.mark.parametrize("name", ["_sim", "_sim_checked"])
def test_the_simulator_takes_no_kernel_from_the_cpu_but_what_is_cupys_on_gpus(name):
    module = pytest.importorskip(f"imgrec_engine.{name}", reason="this build has no such module")
    listing = subprocess.run(["nm", "-DC", module.__file__], capture_output=True, text=True, check=True).stdout
    taken = set(re.findall(r" U imgrec::([\w:]+)\(", listing))
    assert CUPYS_ON_GPUS <= taken <= CUPYS_ON_GPUS | HOST


def test_the_simulator_exports_what_the_cpu_exports():
    cpu = importlib.import_module("imgrec_engine._cpu")
    sim = pytest.importorskip("imgrec_engine._sim", reason="this build has no simulator")

    def names(module):
        return {name for name in vars(module) if not name.startswith("__")}

    assert names(sim) == names(cpu)
