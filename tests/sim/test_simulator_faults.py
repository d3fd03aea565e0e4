"""What a GPU refuses is refused, and what goes wrong in a kernel is reported by name, place, block and thread."""

import pytest


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        # threads, KB of dynamic shared memory, KB allowed, blocks that cooperate, blocks of a cluster
        ((1024, 0, 0, 1, 1), None),
        ((1025, 0, 0, 1, 1), "blocks of (1025, 1, 1) threads; 1 to 1024 are possible"),
        ((0, 0, 0, 1, 1), "blocks of (0, 1, 1) threads"),
        ((32, 0, 0, 0, 1), "a grid of (0, 1, 1) blocks"),
        ((32, 48, 0, 1, 1), None),
        ((32, 49, 0, 1, 1), "50176 bytes of dynamic shared memory without ALLOW_SHARED for as much"),
        ((32, 49, 49, 1, 1), None),
        ((32, 64, 60, 1, 1), "65536 bytes of dynamic shared memory without ALLOW_SHARED for as much"),
        ((32, 99, 99, 1, 1), None),
        ((32, 100, 100, 1, 1), "102400 bytes of shared memory; a block may have 101376"),
        ((32, 0, 0, 4, 1), None),
        ((32, 0, 0, 5, 1), "5 cooperating blocks, but 4 multiprocessors"),
        ((32, 0, 0, 4, 3), "clusters of 3 blocks in a grid of (4, 1, 1); 1 to 8 that divide"),
        ((32, 0, 0, 1, 16), "clusters of 16 blocks"),
    ],
)
def test_launch_configurations(program, numbers, expected):
    if expected is None:
        program("configuration", numbers=numbers)
    else:
        message = program.error("configuration", numbers=numbers)
        assert message.startswith("nothing_kernel: ")
        assert expected in message


def test_static_shared_memory_is_limited(program):
    message = program.error("static_shared")
    assert "the block needs 52 KB of shared memory with second, 52 KB of it in static arrays" in message


def test_deadlocks_say_who_waits_for_what(program, schedule):
    message = program.error("deadlock", schedule=schedule)
    assert message.startswith("barrier_deadlock_kernel: deadlock: no thread can go on.\n")
    for line in (
        "32 threads from 0 to 31 wait for named_barrier_sync at tests/sim/faults.cu:",
        "32 threads from 32 to 63 wait for mbarrier_wait at tests/sim/faults.cu:",
        "1 threads from 64 to 64 wait for __syncwarp at tests/sim/faults.cu:",
        "31 threads from 65 to 95 wait for __syncthreads at tests/sim/faults.cu:",
        "block (1, 0, 0), barrier 0: 31 of 96 threads have come",
        "block (1, 0, 0), barrier 3: 32 of 64 threads have come",
        "waits for 2 of 5 arrivals and 0 bytes, to end a phase of parity 0",
        "32 of 128 threads have returned",
    ):
        assert line in message


def test_a_loop_that_nobody_ends(program):
    message = program.error("endless_spin")
    assert "all threads that can run spin without progress" in message
    assert "32 threads from 0 to 31 wait for the lock at tests/sim/faults.cu:" in message


@pytest.mark.parametrize("kilobytes", [56, 230])
def test_a_stack_that_overflows(program, schedule, kilobytes):
    """By a little, and by so much that a neighbour's stack would be lost if it were next to it."""
    message = program.error("stack_overflow", schedule=schedule, numbers=[kilobytes])
    assert message.startswith("kernel, block (0, 0, 0), thread (")
    assert "needs more than the simulator's 64 KB of local memory" in message


def test_lanes_that_disagree(program):
    message = program.error("mismatched")
    assert "thread (16, 0, 0): __ballot_sync: other lanes of the warp have come to __shfl_xor_sync" in message


def test_a_lane_that_its_mask_leaves_out(program):
    assert "thread (16, 0, 0): __shfl_sync: the mask leaves out this lane" in program.error("outside_mask")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_failure_is_reported(program, threads):
    for _ in range(5):
        message = program.error("first_failure", threads=threads)
        assert message.startswith("failing_kernel, block (3, 0, 0), thread (0, 0, 0): named_barrier_sync: there is no")
