"""A checkpoint is never lost or torn: writers are killed at any moment, and the system refuses at any call."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import checkpoint
from imgrec_engine.train import Run, RunConfig

# One process that has imported everything forks writers and kills each after a moment. (Forking is safe: no kernel has
# run, so there are no threads.) After each kill the file must be one of the two states, whole.
KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from imgrec_engine import checkpoint
path, kills = Path(sys.argv[1]), int(sys.argv[2])
states = [{"a": np.full(20000, value, np.float32), "b": np.full(3, value)} for value in (1, 2)]
checkpoint.save(path, states[0], {"step": 0})
random.seed(0)
parts = 0
for _ in range(kills):
    child = os.fork()
    if child == 0:
        for step in range(1, 1000):
            checkpoint.save(path, states[step % 2], {"step": step})
        os._exit(1)
    time.sleep(random.uniform(0, 0.012))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    state, metadata = checkpoint.load(path)
    value = 1 + metadata["step"] % 2
    assert (state["a"].numpy() == value).all() and (state["b"].numpy() == value).all()
    parts += len(list(path.parent.glob(".*.part")))
    checkpoint.clear_parts(path.parent)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
print(parts)
"""


def kill_writers(folder, kills):
    command = [sys.executable, "-c", KILLS, str(folder / "x.safetensors"), str(kills)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout)


def test_killed_writers_leave_a_whole_file(tmp_path):
    assert kill_writers(tmp_path, 60) > 0  # some were killed in the midst of writing


@pytest.mark.slow
def test_a_thousand_killed_writers_leave_a_whole_file(tmp_path):
    assert kill_writers(tmp_path, 1000) > 0


class Refusing:
    """Counts the calls to the system that writing makes, and refuses one of them."""

    def __init__(self, monkeypatch, refused, number):
        self.calls = 0
        self.refused = refused
        self.number = number
        for owner, name in (
            (tempfile, "mkstemp"),
            (os, "fsync"),
            (os, "open"),
            (Path, "chmod"),
            (Path, "replace"),
        ):
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name)))
        monkeypatch.setattr(os, "fdopen", self.opened(os.fdopen))

    def count(self):
        self.calls += 1
        if self.calls == self.refused:
            raise OSError(self.number, os.strerror(self.number))

    def wrapped(self, function):
        def call(*args, **kwargs):
            self.count()
            return function(*args, **kwargs)

        return call

    def opened(self, function):
        def call(*args, **kwargs):
            self.count()
            file = function(*args, **kwargs)
            return Written(file, self)

        return call


class Written:
    """A file whose writing and flushing may be refused."""

    def __init__(self, file, refusing):
        self.file = file
        self.refusing = refusing

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.refusing.count()
        self.file.write(data[len(data) // 2 :])

    def flush(self):
        self.refusing.count()
        self.file.flush()

    def fileno(self):
        return self.file.fileno()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_whatever_call_the_system_refuses(number, tmp_path, monkeypatch):
    """The file is the old one or the new one, whole, and nothing lies beside it."""
    path = tmp_path / "x.safetensors"
    old, new = {"a": np.zeros(500)}, {"a": np.ones(500)}
    refused, seen = 1, []
    while True:
        ie.save(path, old)
        with monkeypatch.context() as patch:
            refusing = Refusing(patch, refused, number)
            try:
                checkpoint.save(path, new)
            except OSError as error:
                seen.append(error.errno)
        state, _ = ie.load(path)
        assert state["a"].numpy()[0] in (0.0, 1.0)
        assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
        if refusing.calls < refused:
            break
        refused += 1
    assert len(seen) >= 8
    assert set(seen) == {number}
    assert state["a"].numpy()[0] == 1.0  # the last was refused nothing


def test_resuming_clears_what_a_killed_writer_left(tmp_path):
    run = Run.start(tmp_path / "x", RunConfig("digits", model_arguments={"width": 4}, epochs=1, batch_size=256))
    assert run.fit(lambda kind, what: None) == 0
    (tmp_path / "x" / ".last.safetensors.abc.part").write_bytes(b"half")
    Run.resume(tmp_path / "x")
    assert not list((tmp_path / "x").glob(".*"))
