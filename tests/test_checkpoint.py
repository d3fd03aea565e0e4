"""Checkpoints: what comes back, what is refused, and that nothing is ever left half written."""

import json
import struct

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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "x.safetensors"
    ie.save(path, STATE, {"epoch": 3, "classes": ["a", "b"]})
    return path


def test_state_and_metadata_come_back(saved):
    state, metadata = ie.load(saved)
    assert metadata == {"epoch": 3, "classes": ["a", "b"]}
    assert state.keys() == STATE.keys()
    for name, value in STATE.items():
        assert state[name].dtype == value.dtype
        assert state[name].shape == value.shape
        assert state[name].numpy().tobytes() == value.numpy().tobytes()


@given(data=st.data())
def test_a_changed_byte_is_refused_or_harmless(saved, tmp_path_factory, data):
    content = bytearray(saved.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    path.write_bytes(content)
    try:
        state, _ = ie.load(path)
    except CheckpointError as caught:
        message = str(caught)
    else:
        message = str(path)
        for name, value in STATE.items():
            assert state[name].numpy().tobytes() == value.numpy().tobytes()
    assert str(path) in message


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
