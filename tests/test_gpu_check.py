"""scripts/gpu_check.sh: its rehearsal on the simulator, and that no stage can stop or outstay the others."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgrec_engine import device

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from gpu_check import counters, runner, sanitizer  # noqa: E402
from gpu_check.stage import Rows, Setting, Stage  # noqa: E402
from gpu_check.stages import BUDGET, STAGES  # noqa: E402

needs_sim = pytest.mark.skipif("sim" not in device.names(), reason="a rehearsal runs on the simulator")
NEEDS_A_GPU = {"counters"}
MAY_LACK_PACKAGES = {"build", "kernels"}  # a compiler and what builds; PyTorch

PLANTED = {
    "good": "rows.add('one', value=1); return 'all is well'",
    "raises": "rows.add('before', value=2); raise ValueError('planted\\nfault')",
    "wrong": "rows.add('right'); rows.add('wrong', held=False); return 'the note'",
    "killed": "rows.add('before'); os.kill(os.getpid(), 9)",
    "slow": "rows.add('before', pid=subprocess.Popen(['sleep', '60']).pid); time.sleep(60)",
    "absent": "raise Skip('there is no such thing here')",
    "last": "rows.add('after'); return 'reached'",
}


def rehearse(tmp_path):
    """The script's results."""
    command = [str(ROOT / "scripts" / "gpu_check.sh"), "--dry-run", "--out", str(tmp_path / "out")]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    results = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert done.returncode == 0, (done.stdout, done.stderr, [s.get("log") for s in results["stages"]])
    table = done.stdout.splitlines()[-len(STAGES) :]
    assert [line.split()[:2] for line in table] == [[s["name"], s["status"]] for s in results["stages"]]
    return results


def check(results, ran):
    """Complete results in which these stages have passed and all others say why not."""
    assert results["device"] == "sim"
    assert results["machine"]["python"]
    assert results["machine"]["packages"]["numpy"]
    assert [stage["name"] for stage in results["stages"]] == [stage.name for stage in STAGES]
    for stage in results["stages"]:
        assert stage["proves"]
        assert stage["note"]
        if stage["name"] in ran:
            assert stage["status"] == "passed", stage
            assert stage["rows"]
            assert all(row["held"] for row in stage["rows"])
        else:
            assert stage["status"] == "skipped", stage


@needs_sim
def test_the_whole_rehearsal(tmp_path):
    results = rehearse(tmp_path)
    skipped = {stage["name"] for stage in results["stages"] if stage["status"] == "skipped"}
    assert NEEDS_A_GPU <= skipped <= NEEDS_A_GPU | MAY_LACK_PACKAGES
    check(results, {stage.name for stage in STAGES} - skipped)
    vectors = json.loads((tmp_path / "out" / "golden.json").read_text())["vectors"]
    assert len(vectors) >= 40
    assert all(vector["output"] for vector in vectors)


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Stages of one line each, and where they run."""
    head = "import os, subprocess, time\nfrom gpu_check.stage import Skip\n\ndef run(setting, rows):\n    "
    for name, body in PLANTED.items():
        (tmp_path / f"planted_{name}.py").write_text(head + body + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    stages = [Stage(name, 1.5 if name == "slow" else 30, "nothing", f"planted_{name}") for name in PLANTED]
    return stages, Setting("sim", tmp_path / "work", tmp_path / "out")


def test_no_stage_stops_the_others(planted):
    stages, setting = planted
    runner.run_all(stages, setting, {}, budget=60)
    results = json.loads((setting.out / "gpu_check.json").read_text())
    found = {stage["name"]: stage for stage in results["stages"]}
    assert {name: stage["status"] for name, stage in found.items()} == {
        "good": "passed",
        "raises": "failed",
        "wrong": "failed",
        "killed": "failed",
        "slow": "ended",
        "absent": "skipped",
        "last": "passed",
    }
    assert found["good"]["rows"] == [{"name": "one", "held": True, "value": 1}]
    assert found["raises"]["note"] == "ValueError: planted"
    assert "Traceback" in found["raises"]["log"]
    assert found["wrong"]["note"] == "1 of 2 rows failed; the note"
    assert found["killed"]["note"] == "the process ended with code -9 after 1 rows"
    assert found["slow"]["note"].startswith("over its limit of 2 s, after 1 rows")
    assert found["absent"]["note"] == "there is no such thing here"
    for name in ("raises", "killed", "slow"):
        assert [row["name"] for row in found[name]["rows"]] == ["before"]


def test_nothing_of_an_ended_stage_is_left(planted):
    stages, setting = planted
    (slow,) = (stage for stage in stages if stage.name == "slow")
    start = time.monotonic()
    results = runner.run_all([slow], setting, {}, budget=60)
    assert 1.5 <= time.monotonic() - start < 10
    (row,) = results["stages"][0]["rows"]
    command = Path(f"/proc/{row['pid']}/cmdline")  # empty once it has ended, until somebody has taken note
    for _ in range(50):
        if not command.exists() or b"sleep" not in command.read_bytes():
            return
        time.sleep(0.1)
    raise AssertionError("the stage's own process still runs")


def test_the_budget_holds_for_all_together(planted):
    stages, setting = planted
    slow = [stage for stage in stages if stage.name == "slow"]
    results = runner.run_all([*slow, *slow, *slow], setting, {}, budget=2.0)
    assert [stage["status"] for stage in results["stages"]] == ["ended", "skipped", "skipped"]
    assert results["stages"][2]["note"] == "no time left of 2 s"


def test_the_stages_that_matter_most_have_their_whole_time():
    assert BUDGET <= 8 * 60
    assert sum(stage.seconds for stage in STAGES[:4]) <= BUDGET


def test_results_stay_small(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "LARGEST_RESULTS", 20_000)
    rows = [{"name": str(i), "held": True} for i in range(1000)]
    results = {"stages": [{"name": "long", "rows": list(rows)}, {"name": "short", "rows": rows[:5]}]}
    runner.write(tmp_path / "out.json", results)
    long, short = json.loads((tmp_path / "out.json").read_text())["stages"]
    assert (tmp_path / "out.json").stat().st_size <= 20_001
    assert len(long["rows"]) + long["rows_left_out"] == 1000
    assert short["rows"] == rows[:5]


def test_rows_are_kept_at_once(tmp_path):
    with (tmp_path / "rows").open("w") as file:
        Rows(file).add("first", held=False, numbers=[1, 2])
        assert json.loads((tmp_path / "rows").read_text()) == {"name": "first", "held": False, "numbers": [1, 2]}


def test_without_a_gpu_it_says_so(tmp_path):
    command = [sys.executable, "-m", "gpu_check", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "gpu_check: nvidia-smi finds no GPU on this machine; --dry-run rehearses without one\n"


def test_an_unknown_stage_is_refused():
    command = [sys.executable, "-m", "gpu_check", "--only", "golden,silver"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no stage is called silver" in done.stderr


# --- What tools print ------------------------------------------------------------------------------------------------

NCU = """==PROF== Connected to process 7
"ID","Process ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","7","_ZN6imgrec4cuda1aEv","GPU Speed Of Light Throughput","Duration","us","12.5"
"0","7","_ZN6imgrec4cuda1aEv","Occupancy","Achieved Occupancy","%","41.2"
"1","7","_ZN6imgrec4cuda1bEv","Launch Statistics","Registers Per Thread","register/thread","64"
"""


def test_counters_are_read():
    assert list(counters.read(NCU)) == [
        ("_ZN6imgrec4cuda1aEv", {"Duration": "12.5 us", "Achieved Occupancy": "41.2 %"}),
        ("_ZN6imgrec4cuda1bEv", {"Registers Per Thread": "64 register/thread"}),
    ]
    assert list(counters.read("==ERROR== Failed to initialize the profiler")) == []


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0),
        ("========= ERROR SUMMARY: 3 errors", 3),
        ("========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)", 1),
        ("========= Device not supported", None),
    ],
)
def test_the_sanitizers_summary_is_read(text, errors):
    assert sanitizer.summary(text) == errors
