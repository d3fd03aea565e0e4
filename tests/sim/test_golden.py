"""The simulator's primitives against what a GPU gave, bit for bit, where a GPU's vectors are kept in tests/golden."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from gpu_check import golden

KEPT = golden.read(golden.KEPT) if golden.KEPT.exists() else []


def test_vectors_are_kept():
    if not KEPT:
        pytest.skip("no GPU has written tests/golden/primitives.json yet (scripts/gpu_check.sh)")
    assert {vector.name for vector in golden.vectors() if vector.case not in golden.HOPPER} <= {v.name for v in KEPT}


@pytest.mark.parametrize("vector", KEPT, ids=lambda vector: vector.name)
def test_the_simulator_gives_the_bits_of_the_gpu(program, vector, schedule):
    done = program.start(vector.case, vector.input, numbers=vector.numbers, schedule=schedule)
    assert done.returncode == 0, done.stderr.decode()
    assert golden.agrees(vector.compare, done.stdout, vector.output)


def test_a_wrong_bit_shows():
    ours = b"\x00\x00\x80\x3f\x00\x00\xc0\x7f"  # 1 and NaN
    near, other_nan = b"\x01" + ours[1:], ours[:4] + b"\x01" + ours[5:]
    for compare, allowed in {"bits": [], "values": [other_nan], "close": []}.items():
        for theirs in (near, other_nan, ours[:4]):
            assert golden.agrees(compare, ours, theirs) == (theirs in allowed)
        assert golden.agrees(compare, ours[:4], ours[:4])
    assert golden.agrees("close", ours[:4], near[:4])


def test_a_file_gives_back_what_was_written(tmp_path):
    written = [golden.Vector("name", "case", (1, 2), b"\x00\xff", "close", b"\x80")]
    golden.write(tmp_path / "golden.json", written, [{"name": "a GPU"}])
    assert golden.read(tmp_path / "golden.json") == written
