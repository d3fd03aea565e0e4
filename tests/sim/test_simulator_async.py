"""Asynchronous copies: right kernels are right with every schedule; a forgotten wait shows with the lazy ones."""

import numpy as np
import pytest


def tiles(count, size):
    return np.random.default_rng(7).integers(-100, 100, (count, size)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_copy_pipeline(program, count, schedule):
    x = tiles(count, 256)
    result = program("copy_pipeline", x, numbers=[count], dtype=np.float32, schedule=schedule)
    np.testing.assert_array_equal(result, x.sum(axis=0))


def test_a_forgotten_wait_shows_with_lazy_copies(program):
    x = tiles(8, 256)
    run = {"numbers": [8], "dtype": np.float32}
    np.testing.assert_array_equal(program("copy_pipeline_without_wait", x, **run), x.sum(axis=0))
    for schedule in ("lazy", "reversed"):
        wrong = program("copy_pipeline_without_wait", x, **run, schedule=schedule)
        assert not np.array_equal(wrong, x.sum(axis=0))


def test_zeros_for_what_is_not_valid(program, schedule):
    x = tiles(1, 256)[0] + 1000
    result = program("copy_or_zero", x, dtype=np.float32, schedule=schedule).reshape(3, 256)
    threads = np.arange(64)
    for row, width in zip(result, (1, 2, 4), strict=True):
        expected = x[: 64 * width].reshape(64, width) * (threads % 3 != 0)[:, None]
        np.testing.assert_array_equal(row[: 64 * width].reshape(64, width), expected)


@pytest.mark.parametrize("case", ["mbarrier_pipeline", "mbarrier_bulk_pipeline"])
@pytest.mark.parametrize("count", [1, 3, 11])
def test_mbarrier_pipeline(program, case, count, schedule):
    x = tiles(count, 128)
    result = program(case, x, numbers=[count], dtype=np.float32, schedule=schedule)
    np.testing.assert_array_equal(result, x.sum(axis=0))


def test_polling_a_barrier(program, schedule):
    np.testing.assert_array_equal(program("mbarrier_polling", schedule=schedule), [123])


def test_a_stage_that_is_not_waited_for_is_overwritten(program):
    """The producer is 32 lanes ahead: with eager copies its later phases end before anyone saw the earlier ones."""
    message = program.error("mbarrier_no_wait_for_empty", tiles(10, 128), numbers=[10])
    assert "deadlock" in message


def test_a_missing_arrival_is_a_deadlock_that_names_the_barrier(program, schedule):
    message = program.error("mbarrier_no_arrival", tiles(10, 128), numbers=[10], schedule=schedule)
    assert "32 threads from 0 to 31 wait for mbarrier_wait at tests/sim/async.cu:" in message
    assert "waits for 1 of 32 arrivals and 0 bytes, to end a phase of parity 0" in message


def test_an_arrival_too_many(program, schedule):
    message = program.error("mbarrier_arrivals_beyond", tiles(1, 128), numbers=[1], schedule=schedule)
    assert "mbarrier_arrive: a phase of this barrier ends with 1 arrivals, and this is one more at tests/sim" in message


def test_a_barrier_nobody_made(program, schedule):
    message = program.error("mbarrier_uninitialised", tiles(1, 128), numbers=[1], schedule=schedule)
    assert "mbarrier_wait: no mbarrier_init has made a barrier there at tests/sim/async.cu:" in message
