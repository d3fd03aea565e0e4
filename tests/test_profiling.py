"""`ie.profile()`: what is measured, how it is shown, and that nothing is left behind."""

import itertools
import json
import threading
import time

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import cuda, nn, observe, optim
from imgrec_engine import functional as F
from imgrec_engine.autograd import Array, Result, differentiable
from imgrec_engine.errors import ShapeError


@differentiable
def nap(x: Array, seconds: float, backward_seconds: float) -> Result:
    def backward(dy, needs):
        time.sleep(backward_seconds)
        return (dy,)

    time.sleep(seconds)
    return x.copy(), backward


def train(device, steps=2):
    ie.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).to(device)
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    images, labels = ie.rand(5, 8, 8, 1, device=device), ie.tensor(np.arange(5) % 3, device=device)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def test_forward_backward_and_the_optimiser_are_counted(device):
    with ie.profile() as p:
        train(device)
    counts = {(row.name, row.phase): row.calls for row in p.rows()}
    both = ["conv2d", "relu", "reshape", "linear", "cross_entropy"]
    expected = {(name, phase): 2 for name in both for phase in ("forward", "backward")}
    assert counts == {**expected, ("AdamW", "optimizer"): 2}
    assert sum(row.share for row in p.rows()) == pytest.approx(1)
    assert 0 < sum(row.total_ms for row in p.rows()) < p.wall_ms
    times = [row.total_ms for row in p.rows()]
    assert times == sorted(times, reverse=True)
    assert min(times) > 0


def test_the_time_of_a_call_is_what_it_took():
    x = ie.ones(3, requires_grad=True)
    with ie.profile() as p:
        for _ in range(2):
            nap(x, 0.02, 0.05).sum().backward()
    rows = {(row.name, row.phase): row for row in p.rows()}
    assert 20 <= rows["nap", "forward"].mean_ms < rows["nap", "backward"].mean_ms
    assert rows["nap", "backward"].mean_ms >= 50
    assert rows["nap", "forward"].total_ms == pytest.approx(2 * rows["nap", "forward"].mean_ms)
    assert rows["sum", "forward"].total_ms < 20


def test_rows_are_told_apart_by_shapes_and_kernels(device):
    x, y = ie.ones((3, 4), device=device), ie.ones((4, 5), device=device, requires_grad=True)
    with ie.profile() as p:
        (x @ y).sum().backward()
        x @ y
        x[:2] @ y
    matmul = [row for row in p.rows("shape") if row.name == "matmul"]
    assert {(row.phase, row.detail): row.calls for row in matmul} == {
        ("forward", "float32[3, 4], float32[4, 5]"): 2,
        ("forward", "float32[2, 4], float32[4, 5]"): 1,
        ("backward", "float32[3, 5]"): 1,
    }
    kernels = {row.detail for row in p.rows("kernel") if row.name == "matmul"}
    assert len(kernels) == 1
    assert kernels != {""}
    with pytest.raises(ValueError, match="profile: by is 'time', expected one of 'op', 'shape', 'kernel'"):
        p.rows("time")


def test_the_table_shows_the_rows():
    with ie.profile() as p:
        nap(ie.ones(3), 0.02, 0)
        ie.ones(3) + 1
    head, first, second, last = str(p).splitlines()
    assert head.split() == ["op", "phase", "calls", "total", "ms", "mean", "ms", "share"]
    assert first.split()[:3] == ["nap", "forward", "1"]
    assert float(first.split()[3]) == pytest.approx(p.rows()[0].total_ms, abs=1e-3)
    assert second.split()[:3] == ["add", "forward", "1"]
    assert last.endswith(f"{p.wall_ms:.3f} ms in all")
    assert "nap  forward  float32[3], 0.02, 0" in p.table("shape")
    with ie.profile() as nothing:
        pass
    assert "0.000 ms in these" in str(nothing)


def test_the_trace_is_one_that_viewers_read(device, tmp_path):
    with ie.profile() as p:
        train(device, steps=1)
        worker = threading.Thread(target=lambda: ie.ones(2) + 1)
        worker.start()
        worker.join()
    p.write_trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert set(trace) == {"traceEvents", "displayTimeUnit"}
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    names = [event for event in trace["traceEvents"] if event["ph"] == "M"]
    assert len(spans) + len(names) == len(trace["traceEvents"])
    for event in spans:
        assert event["ts"] >= 0
        assert event["dur"] > 0
        assert event["ts"] + event["dur"] <= 1e3 * p.wall_ms
        assert event["cat"] in ("forward", "backward", "optimizer")
    lines = {(event["pid"], event["tid"]) for event in spans}
    assert {(event["pid"], event["tid"]) for event in names if event["name"] == "thread_name"} == lines
    assert len(lines) == (3 if device == "cuda" else 2)  # the GPU, and two threads
    for line in lines:  # calls of one line do not overlap
        times = sorted((e["ts"], e["ts"] + e["dur"]) for e in spans if (e["pid"], e["tid"]) == line)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times))
    on_gpu = [event["name"] for event in spans if event["pid"] == 1]
    assert on_gpu == ([e["name"] for e in spans if e["pid"] == 0][:-1] if device == "cuda" else [])


def test_profiles_end_with_their_block_and_may_be_nested():
    x = ie.ones(3)
    with ie.profile() as outer:
        x + 1
        with ie.profile() as inner:
            x * 2
        with pytest.raises(ShapeError), ie.profile():
            x + ie.ones(4)
    x + 1
    assert [row.name for row in inner.rows()] == ["multiply"]
    assert sorted(row.name for row in outer.rows()) == ["add", "multiply"]
    assert observe.observers == ()


def test_calls_on_a_gpu_are_ranges_for_nvidias_profilers_on_cuda(monkeypatch):
    pytest.importorskip("cupy")
    ie.ones(1, device="cuda")
    nvtx = getattr(cuda.namespace().cuda, "nvtx", None)
    if not hasattr(nvtx, "ranges"):
        pytest.skip("only the stand-in tells which ranges there were")
    x = ie.ones(3, device="cuda", requires_grad=True)
    nvtx.ranges.clear()
    (x * 2).sum().backward()
    assert nvtx.ranges == []
    with ie.profile():
        (x * 2).sum().backward()
        with pytest.raises(ShapeError):
            x + ie.ones(4, device="cuda")
        x + 1
    shown = ["multiply forward", "sum forward", "sum backward", "multiply backward", "add forward", "add forward"]
    assert nvtx.ranges == [(0, name) for name in shown]
    monkeypatch.delattr(cuda.namespace().cuda, "nvtx")
    with ie.profile() as p:
        x + 1
    assert len(p.rows()) == 1
