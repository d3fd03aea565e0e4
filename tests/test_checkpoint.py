"""Checkpoints: what comes back, what is refused, and that nothing is ever left half written."""

import json
import resource
import struct
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import imgrec_engine as ie
from imgrec_engine import checkpoint
from imgrec_engine.errors import CheckpointError

STATE = {
    "weight": ie.randn(3, 5),
    "count": ie.tensor(7),
    "half": ie.ones((2,), dtype="bfloat16"),
    "none": ie.zeros((0, 4)),
}
METADATA = {"epoch": 3, "classes": ["a", "b"], "counts": {"10": 1, "2": 3}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "x.safetensors"
    ie.save(path, STATE, METADATA)
    return path


def test_state_and_metadata_come_back(saved):
    state, metadata = ie.load(saved)
    assert metadata == METADATA
    assert state.keys() == STATE.keys()
    for name, value in STATE.items():
        assert state[name].dtype == value.dtype
        assert state[name].shape == value.shape
        assert state[name].numpy().tobytes() == value.numpy().tobytes()


def refused_or_harmless(path):
    """Whether a file that may be damaged is refused by name; otherwise it must give what was saved."""
    try:
        state, metadata = ie.load(path)
    except CheckpointError as caught:
        message = str(caught)
    else:
        assert metadata == METADATA
        assert state.keys() == STATE.keys()
        for name, value in STATE.items():
            assert state[name].dtype == value.dtype
            assert state[name].shape == value.shape
            assert state[name].numpy().tobytes() == value.numpy().tobytes()
        return False
    assert str(path) in message
    return True


@given(data=st.data())
def test_a_changed_byte_is_refused_or_harmless(saved, tmp_path_factory, data):
    content = bytearray(saved.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    path.write_bytes(content)
    refused_or_harmless(path)


@pytest.mark.slow
def test_twenty_thousand_mutations_are_refused_or_harmless(saved, tmp_path):
    content, path = saved.read_bytes(), tmp_path / "x.safetensors"
    random = np.random.Generator(np.random.Philox(11))
    refused = 0
    for number in range(20_000):
        damaged, (start, stop) = bytearray(content), sorted(random.integers(0, len(content) + 1, 2))
        if number % 4 == 0:
            damaged[min(start, len(content) - 1)] ^= 1 << int(random.integers(8))
        elif number % 4 == 1:
            damaged[start : start + 8] = random.bytes(8)
        elif number % 4 == 2:
            del damaged[start:stop]
        else:
            damaged[start:start] = damaged[start:stop]
        path.write_bytes(damaged)
        refused += refused_or_harmless(path)
    assert refused > 19_000


def hostile_files():
    """Files that lie: about lengths, offsets, shapes, dtypes, names and depth."""

    def file(header, data=b"", length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    yield from (b"", b"\0" * 7, b"\0" * 8, b"\xff" * 64, b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.", b"PK\3\4" + bytes(60))
    for length in (0, 1, 10, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1):
        yield file(b"{}" + b" " * 100, length=length)
    for shape in ([2**63], [2**32, 2**32], [-1], [0, 2**62], [1.5], ["a"], None, [[1]], [1] * 10_000):
        yield file({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}, bytes(4))
    for offsets in ([0, 8], [4, 0], [-4, 0], [0, 2**63], [2**63, 2**64], [1, 5], [0], [], None, [0.5, 4], ["0", "4"]):
        yield file({"a": {"dtype": "F32", "shape": [1], "data_offsets": offsets}}, bytes(4))
    for dtype in ("F7", "", "O", "object", "|O", None, 32, [], "F32\0", "f32"):
        yield file({"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    yield file({"a": one, "b": one}, bytes(4))  # overlapping
    yield file({"a": one, "b": {**one, "data_offsets": [2, 6]}}, bytes(6))
    yield file({"a": one, "b": {**one, "data_offsets": [8, 12]}}, bytes(12))  # a hole
    yield file(b'{"a": %b, "a": %b}' % ((json.dumps(one).encode(),) * 2), bytes(4))
    yield file({f"{i}": {**one, "shape": [0], "data_offsets": [0, 0]} for i in range(500_000)})
    yield file(b"[" * 100_000 + b"]" * 100_000)
    yield file(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    for ours in (
        "[" * 100_000,
        "{}",
        "[]",
        "null",
        "NaN",
        '{"format": 2}',
        '{"format": 2, "digests": 5, "metadata": 1}',
    ):
        yield file({"__metadata__": {"imgrec_engine": ours}})
    yield file({"__metadata__": {"imgrec_engine": 5}})
    yield file({"__metadata__": []})


def test_hostile_files_are_refused_at_once(tmp_path):
    path, count = tmp_path / "x.safetensors", 0
    for content in hostile_files():
        path.write_bytes(content)
        memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with pytest.raises(CheckpointError):
            ie.load(path)
        assert time.process_time() - start < 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 700_000  # KB
        count += 1
    assert count >= 50


@given(length=st.integers(0, 400))
def test_a_cut_file_is_refused(saved, tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut") / "x.safetensors"
    path.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        ie.load(path)


def test_a_changed_value_is_named(saved, tmp_path):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not match its digest"):
        ie.load(path)


@pytest.mark.parametrize("header_length", [2**63 - 1, 2**40, 10])
def test_a_lying_header_is_refused_quickly(tmp_path, header_length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", header_length) + b"{}" + b" " * 100)
    with pytest.raises(CheckpointError):
        ie.load(path)


def test_foreign_and_missing_files_are_refused(tmp_path):
    import safetensors.numpy

    with pytest.raises(CheckpointError, match="no such file"):
        ie.load(tmp_path / "absent")
    (tmp_path / "text").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        ie.load(tmp_path / "text")
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="no metadata of ours"):
        ie.load(tmp_path / "foreign")
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "later", {"imgrec_engine": json.dumps({"format": 99})})
    with pytest.raises(CheckpointError, match="lacks the digests"):
        ie.load(tmp_path / "later")


def test_an_error_while_writing_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "x.safetensors"
    ie.save(path, {"a": ie.ones(3)})
    before = path.read_bytes()
    with pytest.raises(TypeError), checkpoint.replacing(path) as file:
        file.writelines([b"half", "not bytes"])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def test_metadata_that_is_no_json_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        ie.save(tmp_path / "x", {"a": ie.ones(1)}, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
