"""The comparison that anyone can run: a training that is killed and resumed, beside one that is not."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import imgrec_engine as ie

EXAMPLE = Path(__file__).parents[1] / "examples" / "kill_and_resume.py"


def test_a_killed_run_becomes_the_same(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    example = runpy.run_path(str(EXAMPLE))
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE.parents[1]))
    monkeypatch.setattr(sys, "argv", ["kill_and_resume.py", "--epochs", "2", "--out", str(tmp_path / "x")])
    assert example["main"]() == 0
    text = capsys.readouterr().out
    assert "killed:   by SIGKILL half an epoch after the record of epoch 1" in text
    assert "DIFFERENT" not in text


@pytest.mark.parametrize("changed", ["a bit of a weight", "a tensor", "a figure", "the clock", "nothing"])
def test_what_differs_is_seen(changed, tmp_path, capsys):
    compare = runpy.run_path(str(EXAMPLE))["compare"]
    for name in ("straight", "killed"):
        folder, altered = tmp_path / name, name == "killed"
        folder.mkdir()
        weights = {"weight": np.ones(3, np.float32)}
        if altered and changed == "a bit of a weight":
            weights["weight"][1] = np.nextafter(np.float32(1), np.float32(2))
        if altered and changed == "a tensor":
            weights["bias"] = np.zeros(1, np.float32)
        ie.save(folder / "best.safetensors", weights)
        ie.save(folder / "last.safetensors", {"weight": np.ones(3, np.float32)})
        record = {"train_loss": 0.5 + (altered and changed == "a figure"), "seconds": float(altered)}
        (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    assert compare(tmp_path / "straight", tmp_path / "killed") == (changed in ("the clock", "nothing"))
    named = {"a bit of a weight": "DIFFERENT: weight", "a tensor": "DIFFERENT: bias", "a figure": "DIFFERENT: they"}
    assert named.get(changed, "equal to the last bit") in capsys.readouterr().out
