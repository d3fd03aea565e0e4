"""Threads, warps, blocks and grids of the simulator, with each of its schedules."""

import numpy as np
import pytest

LANES = np.arange(32)


def test_parts_of_a_warp_work_at_once(program, schedule):
    y = program("partial_masks", schedule=schedule)
    ballot = sum(1 << lane for lane in range(8, 24) if lane % 3 == 0)
    np.testing.assert_array_equal(y[:8], (LANES[:8] ^ 3) * 10)
    np.testing.assert_array_equal(y[8:24], ballot)
    np.testing.assert_array_equal(y[24:], 3100 + 10 + 0)


@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("amount", [1, 3, 7])
def test_shuffles(program, amount, width):
    x = np.random.default_rng(0).integers(0, 1000, 32).astype(np.int32)
    first = LANES // width * width
    at, xor, up, down = program("shuffles", x, numbers=[amount, width]).reshape(4, 32)
    np.testing.assert_array_equal(at, x[first + amount])
    np.testing.assert_array_equal(xor, x[LANES ^ amount])
    np.testing.assert_array_equal(up, x[np.where(LANES - amount >= first, LANES - amount, LANES)])
    np.testing.assert_array_equal(down, x[np.where(LANES + amount < first + width, LANES + amount, LANES)])


@pytest.mark.parametrize("threads", [32, 96, 1024])
def test_reductions(program, threads, schedule):
    x = np.random.default_rng(1).standard_normal(threads).astype(np.float32)
    result = program("reductions", x, numbers=[threads], dtype=np.float32, schedule=schedule).reshape(5, threads)
    warps, eights = x.reshape(-1, 32), x.reshape(-1, 8)
    np.testing.assert_allclose(result[0], np.repeat(warps.sum(axis=1), 32), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result[1], np.repeat(eights.max(axis=1), 8))
    np.testing.assert_allclose(result[2], x.sum(), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(result[3], x.max())
    np.testing.assert_array_equal(result[4], 2 * result[2])
    # All threads have the same sum to the last bit.
    assert len(set(result[2])) == 1


def test_diverged_warps_and_early_returns(program, schedule):
    y = program("diverged", schedule=schedule).reshape(2, 32)
    runs = LANES % 5 != 4
    ballot = sum(1 << int(lane) for lane in LANES[runs] if lane % 2 == 0)
    others = np.where(LANES > 0, 1, 0)  # where the loop ends
    np.testing.assert_array_equal(y.astype(np.uint32), np.tile(np.where(runs, others + ballot, 0), (2, 1)))


@pytest.mark.parametrize("rounds", [1, 2, 9])
def test_named_barriers(program, rounds, schedule):
    y = program("named_barriers", numbers=[rounds], schedule=schedule)
    np.testing.assert_array_equal(y, 1000 * (rounds * (rounds - 1) // 2) + rounds * np.arange(63, -1, -1))


def test_indices_and_fresh_shared_memory(program):
    y = program("indices", threads=2)
    np.testing.assert_array_equal(y.reshape(24, 24), 1000 * LANES[:24, None] + LANES[None, :24])


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("steps", [1, 5])
def test_grid_barrier(program, blocks, steps, schedule):
    size = blocks * 32
    x = np.random.default_rng(2).integers(0, 9, (2, size)).astype(np.int32)
    expected = x.copy()
    for step in [*range(steps), *range(steps)]:
        expected[1 - step % 2] = expected[step % 2] + np.roll(expected[step % 2], -1)
    result = program("grid_barrier", x, numbers=[blocks, steps, 1], schedule=schedule)
    np.testing.assert_array_equal(result.reshape(2, size), expected)


def test_a_grid_barrier_needs_a_cooperative_launch(program):
    message = program.error("grid_barrier", np.zeros((2, 64), np.int32), numbers=[2, 1, 0])
    assert "wait for grid_barrier at tests/sim/grids.cu:" in message
    assert "blocks that wait for each other need a cooperative launch" in message


def test_blocks_that_only_wait_by_polling(program, schedule):
    """Progress without any barrier is no deadlock, however long it takes."""
    rounds = 20_000
    np.testing.assert_array_equal(program("token", numbers=[rounds], schedule=schedule), [4 * rounds, 10])


@pytest.mark.parametrize(("blocks", "cluster"), [(2, 2), (8, 4), (8, 8), (3, 1)])
def test_clusters_share_their_memory(program, blocks, cluster, schedule):
    inbox, read = program("cluster", numbers=[blocks, cluster], schedule=schedule).reshape(blocks, 2, 32).swapaxes(0, 1)
    block = np.arange(blocks)
    previous = block // cluster * cluster + (block % cluster - 1) % cluster
    np.testing.assert_array_equal(inbox, 100 * previous[:, None] + LANES)
    np.testing.assert_array_equal(read, 1000 * previous[:, None] + LANES[::-1])


@pytest.mark.parametrize("threads", [1, 2])
def test_atomics(program, threads):
    x = np.random.default_rng(4).integers(-50, 1000, 40 * 64).astype(np.int32)
    result = program("atomics", x, numbers=[40], threads=threads)
    np.testing.assert_array_equal(result[:4], [min(0, x.min()), x.max(), 77, 55])
    np.testing.assert_array_equal(result[4:], np.bincount(x.astype(np.uint32) % 8, minlength=8))


@pytest.mark.parametrize("case", ["grid_barrier", "cluster", "indices"])
def test_results_do_not_depend_on_the_number_of_threads(program, case):
    inputs = [np.arange(256, dtype=np.int32)] if case == "grid_barrier" else []
    numbers = {"grid_barrier": [4, 3, 1], "cluster": [8, 2], "indices": []}[case]
    results = [program(case, *inputs, numbers=numbers, threads=threads) for threads in (1, 2, 2)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
