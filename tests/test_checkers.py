"""The simulator's checkers: planted bugs are found, at the right place, and correct kernels are silent."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLANTED = ROOT / "tests/sim/planted"
COMMON = ["-std=c++20", "-Wall", "-Wno-psabi", "-Wno-unknown-pragmas", "-ffp-contract=off"]
INSTRUMENTED = ["-x", "c++", "-O2", "-g", "-fno-tree-sra", "-fno-optimize-sibling-calls", "-fsanitize=thread"]
INSTRUMENTED += ["--param", "tsan-instrument-func-entry-exit=0", "--param", "tsan-distinguish-volatile=1"]
RUNTIME = ["-O1", "-DIMGREC_SIM_CHECKED"]

# What each bug's report says, and the block and thread that it names; of two parties, first who came last.
BUGS = {
    "race in shared memory": {
        "missing_syncthreads": (r"race: read of 4 bytes of shared memory, 'tile' \+ 0 bytes", (0, 1), (0, 0)),
        "missing_second_syncthreads": (r"race: write of 4 bytes of shared memory, 'tile' \+ 124", (0, 31), (0, 63)),
        "missing_syncwarp": (r"race: read of 4 bytes of shared memory, 'tile' \+ 120", (0, 31), (0, 30)),
        "syncwarp_for_block": (r"race: read of 4 bytes of shared memory, 'tile' \+ 124", (0, 63), (0, 31)),
        "missing_cluster_sync": (r"race: read of 4 bytes of shared memory, 'tile' \+ 4", (1, 1), (0, 1)),
        "wrong_named_barrier": (r"race: read of 4 bytes of shared memory, 'tile'", (0, 127), (0, 63)),
        "race_in_half_a_word": (r"race: read of 2 bytes of shared memory, 'tile' \+ 0 bytes", (0, 2), (0, 0)),
    },
    "race with an asynchronous copy": {
        "missing_copy_wait": (r"race: read of 4 bytes.*\n.*\n  while an asynchronous copy goes on", (0, 31), (0, 7)),
        "missing_mbarrier_wait": (r"race: read of 4 bytes.*\n.*\n  while an asynchronous copy goes on", (0, 0), (0, 0)),
        "missing_barrier_after_copy": (r"race: read of 4 bytes of shared memory, 'tile' \+ 404", (0, 26), (0, 25)),
    },
    "race in global memory": {
        "blocks_write_one_word": (r"race: write of 4 bytes of global memory, array 1 .* \+ 0 bytes", (1, 0), (0, 0)),
        "global_race_in_block": (r"race: read of 4 bytes of global memory, array 1 .* \+ 0 bytes", (0, 1), (0, 0)),
        "ticket_without_release": (r"race: read of 4 bytes of global memory, array 1 .* \+ 0 bytes", (3, 0), (0, 0)),
        "missing_grid_barrier": (r"race: read of 4 bytes of global memory, array 1 .* \+ 0 bytes", (1, 1), (0, 0)),
    },
    "bounds and alignment": {
        "static_shared_overflow": (r"write of 4 bytes of shared memory, 0 bytes past the end of 'tile'", (0, 31)),
        "dynamic_shared_overflow": (r"write .*, 0 bytes past the end of the dynamic shared memory", (0, 31)),
        "global_overflow": (r"write .* global memory, 0 bytes past the end of array 1 .* 128 bytes", (0, 31)),
        "negative_index": (r"read of 4 bytes of global memory, 4 bytes before array 2", (0, 0)),
        "misaligned_load": (r"misaligned: read of 16 bytes at an address that is 4 past a multiple", (0, 0)),
        "write_to_input": (r"read-only: write of 4 bytes to an input, array 2", (0, 0)),
        "host_pointer": (r"out of bounds: read of 4 bytes of global memory, address 0x\w+, which", (0, 0)),
        "shared_over_limit": (r"the block needs 49 KB of shared memory with tile", (0, 0)),
    },
    "uninitialised memory": {
        "uninitialised_shared": (r"uninitialised: read of 4 bytes of shared memory .* 'tile' \+ 28", (0, 7)),
        "uninitialised_global": (r"uninitialised: read of 4 bytes of global memory .* array 1 .* \+ 28", (0, 7)),
    },
    "divergent barrier": {"divergent_barrier": (r"divergent barrier: a thread came to this", (0, 32), (0, 0))},
    "warp operations": {"mismatched_masks": (r"__shfl_xor_sync: other lanes of the warp have come to", (0, 16))},
    "deadlock": {"deadlock": (r"deadlock: all threads that can run spin without progress", None)},
}
REPORTS = [(name, *report, None)[:4] for bugs in BUGS.values() for name, report in bugs.items()]
# (wavefronts, the least possible), (sectors of global memory, the least possible)
COSTS = {
    "bank_conflicts": ((32, 1), (4, 4)),
    "bank_conflicts_corrected": ((1, 1), (4, 4)),
    "uncoalesced": ((0, 0), (32, 4)),
    "uncoalesced_corrected": ((0, 0), (4, 4)),
}


def compile_all(folder, *options):
    """The planted kernels, with these options, and the simulator and the checkers, two files at a time."""
    runtime = [*ROOT.glob("csrc/sim/*.cpp"), *ROOT.glob("csrc/sim/check/*.cpp"), ROOT / "csrc/cpu/parallel.cpp"]
    runtime = [source for source in runtime if source.name != "bindings.cpp"]
    # In the order of csrc/sim/CMakeLists.txt, which says why.
    jobs = [(source, RUNTIME) for source in sorted([*runtime, PLANTED / "main.cpp"])]
    jobs += [(source, [*INSTRUMENTED, *options]) for source in sorted(PLANTED.glob("*.cu"))]

    def compile_one(job):
        (number, (source, flags)) = job
        target = folder / f"{number}.o"
        command = ["g++", *COMMON, f"-I{ROOT / 'csrc'}", *flags, "-c", source, "-o", target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, enumerate(jobs)))
    subprocess.run(["g++", *objects, "-o", folder / "planted", "-lpthread"], check=True)
    return folder / "planted"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What the checkers say about each planted case."""
    if not shutil.which("g++"):
        pytest.skip("the planted bugs are compiled with g++")
    return reports(compile_all(tmp_path_factory.mktemp("planted")))


def reports(program):
    """By case: what is said of it, without and with the costs of lines."""
    environment = {**os.environ, "IMGREC_SIM_CHECK": "all", "IMGREC_SIM_SCHEDULE": "eager"}
    text = subprocess.run([program], env=environment, capture_output=True, text=True, check=True).stdout
    cases = re.split(r"^case (\w+)\n", text, flags=re.MULTILINE)[1:]
    return {
        name: ("".join(line for line in said.splitlines(True) if not line.startswith("cost ")), said)
        for name, said in zip(cases[::2], cases[1::2], strict=True)
    }


def marked_line(mark, name):
    """ "file.cu:12" of the line whose comment has the mark for this case."""
    for source in PLANTED.glob("*.cu"):
        for number, line in enumerate(source.read_text().splitlines(), 1):
            comment = line.partition("//")[2]
            if re.search(rf"\b{mark}( \w+)*? {name}\b", comment):
                return f"{source.name}:{number}"
    raise AssertionError(f"no line is marked {mark} {name}")


def place(mark, name, party):
    block, thread = party
    return f"{marked_line(mark, name)}, block ({block}, 0, 0), thread ({thread}, 0, 0)"


@pytest.mark.parametrize(("name", "what", "party", "other"), REPORTS)
def test_planted_bug_is_reported(outputs, name, what, party, other):
    said = outputs[name][0]
    found = re.search(what, said)
    assert found, said
    one = said[found.start() :].split("\n(")[0]  # this report alone
    if name in ("shared_over_limit", "mismatched_masks"):  # found by the simulator itself, which says it in one line
        block, thread = party
        assert f"block ({block}, 0, 0), thread ({thread}, 0, 0)" in said
        assert one.rstrip().endswith(marked_line("HERE", name))
    elif name == "deadlock":
        assert "32 threads from 0 to 31 wait for __syncthreads" in one
        assert marked_line("OTHER", name) in one
        assert marked_line("HERE", name) in one
    else:
        assert place("HERE", name, party) in one
        if other:
            assert place("OTHER", name, other) in one


@pytest.mark.parametrize("name", [name for name, *_ in REPORTS])
def test_corrected_kernel_is_silent(outputs, name):
    assert outputs[f"{name}_corrected"][0] == ""


@pytest.mark.slow
def test_reports_do_not_depend_on_optimisation(outputs, tmp_path):
    """As a debugger wants it. Inline functions are then calls, which the simulator must not share with the kernels."""
    unoptimised = reports(compile_all(tmp_path, "-O0"))
    assert {name: said[0] for name, said in unoptimised.items() if "0x" not in said[0]} == {
        name: said[0] for name, said in outputs.items() if "0x" not in said[0]
    }


@pytest.mark.parametrize("name", COSTS)
def test_costs_of_a_line(outputs, name):
    wavefronts, sectors = COSTS[name]
    line = rf"{re.escape(marked_line('HERE', name))} wavefronts {'{} of {}'.format(*wavefronts)} sectors "
    assert re.search(line + "{} of {}".format(*sectors), outputs[name][1]), outputs[name][1]
    assert outputs[name][0] == ""


def test_table_of_planted_bugs(outputs):
    """Printed by `pytest -s`."""
    for checker, bugs in BUGS.items():
        caught = [name for name, report in bugs.items() if re.search(report[0], outputs[name][0])]
        silent = [name for name in bugs if not outputs[f"{name}_corrected"][0]]
        counts = f"{len(caught)} of {len(bugs)} caught, {len(silent)} of {len(bugs)} corrected twins silent"
        sys.stdout.write(f"\n{checker:32} {counts}")
    assert set(outputs) == {
        *(name for bugs in BUGS.values() for name in bugs),
        *(f"{name}_corrected" for bugs in BUGS.values() for name in bugs),
        *COSTS,
    }


def run_checked(code, **environment):
    """Runs Python with the checked module."""
    variables = {**os.environ, "IMGREC_SIM_CHECK": "all", **environment}
    return subprocess.run([sys.executable, *code], env=variables, capture_output=True, text=True, check=False, cwd=ROOT)


checked_module = pytest.mark.skipif(
    importlib.util.find_spec("imgrec_engine._sim_checked") is None, reason="`make checked` builds the checked module"
)


@checked_module
def test_unknown_checker_is_refused():
    code = "import imgrec_engine as ie; ie.functional.relu(ie.ones((3,), device='sim'))"
    done = run_checked(["-c", code], IMGREC_SIM_CHECK="races")
    assert "ValueError: IMGREC_SIM_CHECK names 'races', expected race, bounds" in done.stderr


@checked_module
def test_profile_counts_an_operation():
    code = """if True:
        import imgrec_engine as ie
        from imgrec_engine import kernels
        x = ie.ones((4096,), device="sim")
        module, _ = kernels.load("sim")
        module.sim_profile_start()
        ie.functional.relu(x)
        (kernel,) = module.sim_profile_take()
        assert kernel["launches"] == 1 and kernel["threads_per_block"] == 256, kernel
        assert kernel["global_bytes_read"] == kernel["global_bytes_written"] == 4 * 4096, kernel
        loads, stores = (line for line in kernel["lines"] if line["global_requests"])
        for line in (loads, stores):
            assert line["file"] == "csrc/cuda/activation.cu", line
            assert line["global_requests"] == 4096 // 128 and line["global_sectors"] == 4 * 4096 // 32, line
            assert line["global_minimum_sectors"] == line["global_sectors"], line
    """
    done = run_checked(["-c", code], IMGREC_SIM_CHECK="race")
    assert done.returncode == 0, done.stderr


def run_op_table(selection, **environment):
    arguments = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_ops.py", "-k", selection]
    done = run_checked(arguments, **environment)
    assert done.returncode == 0, done.stdout[-6000:]


@checked_module
def test_op_table_is_silent():
    run_op_table("sim and values and float32 and (relu or conv2d or lstm-0 or gru-0 or softmax or attention-0)")


@checked_module
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("schedule", ["eager", "lazy", "reversed"])
def test_op_table_is_silent_on_every_schedule(schedule):
    run_op_table("sim", IMGREC_SIM_SCHEDULE=schedule)


if __name__ == "__main__":  # docs/debugging.md: python tests/test_checkers.py FOLDER [OPTIONS of the compiler]
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    compile_all(Path(sys.argv[1]), *sys.argv[2:])
