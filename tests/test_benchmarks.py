"""python -m benchmarks: the statistics, that wrong answers are refused, reports, and small runs from end to end."""

import dataclasses
import functools
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imgrec_engine import device

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks import cases, compare, measure, pairing, report  # noqa: E402
from benchmarks.affinity import spread  # noqa: E402
from benchmarks.cases.case import BOTH, CHANNELS_FIRST, CHANNELS_LAST, FORWARD, STEP, TIME_FIRST, Variant  # noqa: E402
from benchmarks.cases.memory_bound import elementwise, layer_norm  # noqa: E402
from benchmarks.checking import WrongResultError, check  # noqa: E402
from benchmarks.frameworks.ours import Ours  # noqa: E402
from benchmarks.machine import Ceilings, Probe  # noqa: E402
from benchmarks.memory import peak_growth  # noqa: E402
from benchmarks.results import Measurement, Pair, Report, Series, Spread, geometric_mean  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

# --- statistics -------------------------------------------------------------------------------------------------------


def pairs(*values, kept=True):
    return tuple(Pair(ours, theirs, 1.0, kept) for ours, theirs in values)


def test_ratios_are_paired():
    """A machine that becomes four times as slow halfway changes no ratio, but that of the medians."""
    series = Series("wall", 2, pairs((1.0, 2.0), (1.0, 2.0), (4.0, 8.0), (4.0, 8.0), (1.0, 2.0)))
    assert series.ratio == Spread(2.0, 2.0, 2.0)
    assert series.ours == Spread(1.0, 1.0, 4.0)


def test_discarded_pairs_do_not_count():
    series = Series("wall", 2, pairs((1.0, 3.0)) + pairs((1.0, 99.0), kept=False))
    assert series.ratio == Spread(3.0, 3.0, 3.0)
    assert series.theirs == Spread(3.0, 3.0, 3.0)


def test_alone_there_is_no_ratio():
    series = Series("wall", 2, pairs((1.0, None), (2.0, None)))
    assert series.ratio is None
    assert series.theirs is None
    assert series.ours.median == 1.5


def test_quartiles():
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)


def taken(speeds, seconds):
    """The pairs that are taken on a machine of these speeds, the last one for ever, and in which ours went first."""
    firsts = []

    def take(ours_first):
        firsts.append(ours_first)
        return Pair(1.0, 1.0, speeds[min(len(firsts), len(speeds)) - 1])

    return pairing.take_pairs(take, seconds), firsts


def test_pairs_of_a_quiet_machine_all_count_and_take_turns():
    found, firsts = taken([1.0], 0.01)
    assert len(found) == pairing.WANTED
    assert all(pair.kept for pair in found)
    assert firsts[:4] == [True, False, True, False]


def test_pairs_of_a_busy_moment_are_replaced():
    found, _ = taken([1.0, 0.5, 0.6, 1.0], 0.01)
    assert len(found) == pairing.WANTED + 2
    assert [pair.kept for pair in found[:4]] == [True, False, False, True]


def test_a_machine_that_is_never_quiet_ends_with_the_cleanest():
    speeds = [0.3, *[0.4] * 10, *[0.5] * 11]
    found, _ = taken(speeds, 0.01)
    assert len(found) == pairing.ATTEMPTS * pairing.WANTED
    assert {pair.speed for pair in found if pair.kept} == {0.5}
    assert "11 disturbed" in report.counts(Series("wall", 1, found))


def test_long_pairs_are_fewer():
    assert len(taken([1.0], 60.0)[0]) == pairing.FEWEST


# --- cases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [CHANNELS_LAST, CHANNELS_FIRST, TIME_FIRST])
def test_layouts_go_back_and_forth(layout):
    array = np.arange(120).reshape((2, 3, 4, 5)[: len(layout.axes)] if len(layout.axes) == 4 else (4, 5, 6))
    there = layout.of(array)
    assert there.shape == tuple(np.array(array.shape)[list(layout.axes)])
    assert there.flags.c_contiguous == layout.contiguous
    assert (layout.back(there) == array).all()
    assert layout.of(array[0]) is not None
    assert layout.of(array[0]).shape == array[0].shape


def test_names_find_their_cases():
    for family, members in cases.FAMILIES.items():
        names = [case.name for case in members]
        assert len(names) == len(set(names)), family
        for case in members:
            assert case.family == family
            assert cases.find(family, case.name) is case
    assert [case.name for case in cases.select(["tiny"], ["layer"])] == ["layer_norm, 16x32"]


@pytest.mark.parametrize(
    "case", [case for case in cases.FAMILIES["tiny"] if not case.name.startswith("AdamW")], ids=lambda case: case.name
)
def test_programs_compute(case):
    for mode in case.modes:
        program = case.program(Ours("cpu", "float32"), mode, case.variants("ours", mode)[0], {})
        with program.context():
            program.run()
        results = program.results()
        assert all(np.isfinite(array).all() for array in results.values())
        if mode == BOTH:
            assert any(name.startswith("gradient") for name in results)


def test_work_is_counted():
    work = layer_norm(16, 32).work(FORWARD)
    assert work.bytes == 4 * (16 * 32 * 2 + 2 * 32)
    assert layer_norm(16, 32).work(BOTH).bytes == 4 * (3 * (16 * 32 + 2 * 32) + 2 * 16 * 32)
    assert cases.FAMILIES["conv2d"][1].work(FORWARD).flop == 2 * 8 * 56 * 56 * 64 * 64 * 9


def test_twins_learn_the_same():
    pytest.importorskip("torch")
    from benchmarks.frameworks.pytorch import PyTorch

    ours, torch = Ours("cpu", "float64"), PyTorch("cpu", "float64")
    torch.set_threads(1)  # two pools of threads on the same cores wait for each other
    for model in ("cnn", "resnet18", "cnn_lstm", "attention"):
        case = next(c for c in cases.FAMILIES["train"] if c.name.startswith(model + ",") and "28x28" in c.name)
        small = dataclasses.replace(case, batch=4, model=dataclasses.replace(case.model, size=8))
        mine = small.program(ours, STEP, small.variants("ours", STEP)[0], {})
        weights = mine.weights()
        expected = small.program(torch, STEP, small.variants("torch", STEP)[0], weights)
        check(mine.results(), expected.results())


# --- checking and refusing --------------------------------------------------------------------------------------------


def test_results_are_compared():
    right = {"output": np.array([1.0, 100.0], np.float32)}
    check(right, {"output": right["output"] * np.float32(1 + 1e-6)})
    for wrong in (right["output"] * 1.01, right["output"] * np.nan, right["output"][:1]):
        with pytest.raises(WrongResultError, match="output"):
            check({"output": wrong}, right)
    with pytest.raises(WrongResultError, match="gradient of x is missing"):
        check(right, {"gradient of x": right["output"]})


class Local:
    """A worker in this process, which answers as one in another would."""

    def __init__(self, name):
        framework = Ours("cpu", "float32")
        framework.name = name
        self.framework = name
        self.asked = []
        self._worker = Worker(framework)

    def ask(self, what, **details):
        self.asked.append(what)
        return json.loads(json.dumps(self._worker.answer({"do": what, **details})))


class Quiet:
    """A machine that nobody else uses."""

    def flops(self, threads):
        return 1e11

    def ceilings(self, threads):
        return Ceilings(1e11, 1e10)


def planted(build):
    """A case in which the peer is a function of ours."""
    case = elementwise("relu", 8, 8)
    ours = case.ways["ours"]
    return dataclasses.replace(case, family="planted", ways={"ours": ours, "torch": (Variant(build, name="planted"),)})


def relu_of(ie, factor, slope):
    """relu(x) times a factor, whose gradient may be another."""
    return lambda x: (ie.functional.relu(x) * factor + slope * (x - x.detach())).reshape(8, 8)


@pytest.fixture
def run(monkeypatch):
    """Measures a planted case in both modes, with readings that take no time."""
    monkeypatch.setattr(measure, "READING", 1e-4)
    monkeypatch.setattr(pairing, "WANTED", 3)

    def run(build):
        case = planted(build)
        monkeypatch.setitem(cases.FAMILIES, "planted", (case,))
        ours, theirs = Local("ours"), Local("torch")
        bench = measure.Bench(ours, {"torch": theirs}, Quiet(), threads=2)
        return [m for mode in case.modes for m in bench.measure(case, mode)], theirs

    return run


def test_a_right_peer_is_timed(run):
    measurements, _ = run(functools.partial(relu_of, factor=1.0, slope=0.0))
    assert [m.mode for m in measurements] == [FORWARD, BOTH]
    for found in measurements:
        assert found.framework == "torch"
        assert found.variant == "planted"
        assert [(s.quantity, s.threads) for s in found.series] == [("wall", 2), ("cpu", 1)]
        assert len(found.series[0].pairs) == pairing.WANTED
        assert found.ceiling == pytest.approx(found.bytes / 1e10)
        assert "GB/s" in report.row(found)


@pytest.mark.parametrize(("factor", "slope", "what"), [(1.001, 0.0, "output"), (1.0, 0.5, "gradient of x0")])
def test_a_wrong_peer_is_refused(run, factor, slope, what):
    with pytest.raises(measure.Refused, match=f"planted relu, 8x8, .* beside torch: {what} differs"):
        run(functools.partial(relu_of, factor=factor, slope=slope))


def test_what_is_refused_is_not_timed(monkeypatch):
    monkeypatch.setitem(cases.FAMILIES, "planted", (case := planted(functools.partial(relu_of, factor=2.0, slope=0)),))
    workers = Local("ours"), Local("torch")
    with pytest.raises(measure.Refused):
        list(measure.Bench(workers[0], {"torch": workers[1]}, Quiet(), threads=1).measure(case, FORWARD))
    assert "run" not in workers[0].asked + workers[1].asked


# --- the machine ------------------------------------------------------------------------------------------------------


def test_the_probe_measures():
    probe = Probe()
    assert 1e8 < probe.flops(1) < 1e12
    assert 1e8 < probe._copy(2, 1 << 20, 1) < 1e13
    assert Ceilings(100.0, 10.0).seconds(50, 20) == 2.0
    assert Ceilings(100.0, 10.0).seconds(500, 20) == 5.0


def test_memory_that_is_given_back_counts():
    size = 48 << 20

    def work():
        with mmap.mmap(-1, size) as memory:  # fresh pages, whatever the heap holds
            memory.write(b"x" * size)

    assert 0.99 * size <= peak_growth(work) < 3 * size  # Linux counts pages in lots, a lot a thread may be missing


def test_cores_are_free_again():
    cores = os.sched_getaffinity(0)
    with spread():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == cores


# --- reports ----------------------------------------------------------------------------------------------------------


def measured(ratio, framework="torch", case="c", width=0.01):
    values = [(1.0, ratio - width), (1.0, ratio), (1.0, ratio + width)]
    series = Series("wall", 1, pairs(*(values if framework else [(1 / ratio, None)] * 3)))
    return Measurement("f", case, FORWARD, framework, "", 1e9, 1e6, 0.5, (series,))


def test_reports_are_read_as_written(tmp_path):
    before = Report({"processor": "p", "threads": 1}, (measured(1.5), measured(2.0, None)))
    before.write(tmp_path / "a.json")
    assert Report.read(tmp_path / "a.json") == before
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(ValueError, match="not a report"):
        Report.read(tmp_path / "b.json")


def test_only_what_left_the_spread_has_changed():
    before = Report(
        {}, (measured(1.0), measured(1.0, case="same"), measured(1.0, None, "alone"), measured(1, case="old"))
    )
    after = Report(
        {}, (measured(1.5), measured(1.005, case="same"), measured(0.5, None, "alone"), measured(1, case="new"))
    )
    assert compare.changes(before, after) == [
        "f c, forward, beside torch: 1.50 times as good, 1 [0.995, 1] -> 1.5 [1.5, 1.5]",
        "f alone, forward: 2.00 times as bad, 1 [1, 1] -> 0.5 [0.5, 0.5]",
        "only in the first: f old, forward, beside torch",
        "only in the second: f new, forward, beside torch",
    ]


def test_means_are_by_family_and_mode():
    assert report.summary([measured(0.5), measured(2.0, case="d")]) == ["f, forward, beside PyTorch: 1.00"]


# --- the command line -------------------------------------------------------------------------------------------------


def command(*words):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
    words = [sys.executable, "-m", "benchmarks", *map(str, words)]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", ["cpu", "sim"])
def test_a_run_from_end_to_end(name, tmp_path):
    if name not in device.names():
        pytest.skip("this build has no simulator")
    places = tmp_path / "a.json", tmp_path / "a.png"
    words = ["--device", name, "--threads", 1, "--compare", "", "--cases", "cnn_lstm"]
    done = command("tiny", *words, "--json", places[0], *(["--plot", places[1]] if name == "cpu" else []))
    assert done.returncode == 0, done.stderr
    assert "cnn_lstm, 1x8x8x1" in done.stdout
    found = Report.read(places[0])
    assert [m.mode for m in found.measurements] == [FORWARD]
    assert found.machine["device"] == name
    assert found.machine["threads"] == 1
    assert found.machine["versions"] == [Ours(name, "float32").version]
    assert (name == "cpu") == places[1].exists()
    same = command("compare", places[0], places[0])
    assert (same.returncode, same.stdout) == (0, "nothing changed beyond the spread\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["conv3d"], "no family is called conv3d"),
        (["--compare", "jax"], "cannot compare with jax"),
        (["--threads", "0"], "--threads is 0"),
        (["compare", "none.json", "none.json"], "none.json"),
    ],
)
def test_wrong_commands_are_explained(words, message):
    done = command(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
