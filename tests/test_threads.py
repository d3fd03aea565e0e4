"""The thread pool: fork, concurrent callers, settings; and the debug levels. Settings run in processes of their own."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import imgrec_engine as ie


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_with_threads_of_its_own():
    code = """
import os
import warnings
import imgrec_engine as ie

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork in processes with threads
ie.set_num_threads(3)
a = ie.randn(300, 300)
expected = (a @ a).numpy().tobytes()  # starts the pool
child = os.fork()
if child == 0:
    os._exit(0 if (a @ a).numpy().tobytes() == expected else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert (a @ a).numpy().tobytes() == expected
"""
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_concurrent_callers_get_the_same_bits():
    ie.set_num_threads(2)
    a = ie.randn(256, 256)
    expected = (a @ a).gelu().numpy().tobytes()
    found = []

    def work():
        found.extend((a @ a).gelu().numpy().tobytes() == expected for _ in range(20))

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [True] * 80


def test_the_number_of_threads_comes_from_the_environment():
    code = "import imgrec_engine as ie; print(ie.get_num_threads())"
    assert python(code, IMGREC_NUM_THREADS="3").stdout == "3\n"
    assert int(python(code, IMGREC_NUM_THREADS="").stdout) >= 1
    refused = python(code, IMGREC_NUM_THREADS="many")
    assert refused.returncode != 0
    assert "IMGREC_NUM_THREADS is 'many', expected a whole number of 1 or more" in refused.stderr


def test_the_number_of_threads_can_be_set():
    ie.set_num_threads(2)
    assert ie.get_num_threads() == 2
    with pytest.raises(ValueError, match="set_num_threads: count is 0"):
        ie.set_num_threads(0)


def test_debug_1_prints_each_op():
    code = "import imgrec_engine as ie; (ie.ones((2, 3)) @ ie.ones((3, 4))).sum(axis=0)"
    lines = python(code, IMGREC_DEBUG="1").stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("imgrec: matmul(float32[2, 3], float32[3, 4]) -> float32[2, 4]")
    assert lines[1].startswith("imgrec: sum(float32[2, 4], 0, False) -> float32[4]")
    assert lines[1].endswith(" ms")
    assert python(code, IMGREC_DEBUG="0").stderr == ""


def test_debug_2_names_the_op_that_made_a_nan():
    code = "import imgrec_engine as ie; x = ie.zeros(2); y = x + 1; y = x / x"
    result = python(code, IMGREC_DEBUG="2")
    assert result.returncode != 0
    assert "FloatingPointError: divide: its output float32[2] holds NaN or Inf" in result.stderr
    assert python(code).returncode == 0


def test_results_are_the_same_bits_at_any_number_of_threads():
    found = set()
    for threads in (1, 2, 3):
        ie.set_num_threads(threads)
        ie.manual_seed(5)
        x = ie.randn(301, 203, requires_grad=True)
        (x.gelu() @ x.T).sigmoid().mean().backward()
        found.add(x.grad.numpy().tobytes())
    assert len(found) == 1
    assert np.isfinite(x.grad.numpy()).all()
