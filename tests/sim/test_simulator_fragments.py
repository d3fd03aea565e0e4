"""Which lane holds which element: the simulator's tensor-core instructions against the formulas of the PTX ISA.

The formulas are those of "Matrix Fragments for mma.m16n8k16", "… mma.m16n8k8" and "ldmatrix", written down here as the
ISA has them, element by element; csrc/cuda/arch/ has them in another form.
"""

import ml_dtypes
import numpy as np
import pytest

LANES = np.arange(32)
GROUP, THREAD = LANES >> 2, LANES % 4


def fragment_16bit(i, operand):
    """Row and column of element i of each lane, for m16n8k16 with 16-bit numbers."""
    if operand == "a":
        row = GROUP if 0 <= i < 2 or 4 <= i < 6 else GROUP + 8
        return row, THREAD * 2 + (i & 1) + (0 if i < 4 else 8)
    row = THREAD * 2 + (i & 1) + (0 if i < 2 else 8)
    return row, GROUP


def fragment_tf32(i, operand):
    """The same for m16n8k8 with tf32."""
    if operand == "a":
        return (GROUP if i in (0, 2) else GROUP + 8), (THREAD if i in (0, 1) else THREAD + 4)
    return (THREAD if i == 0 else THREAD + 4), GROUP


def fragment_d(i):
    return (GROUP if i < 2 else GROUP + 8), THREAD * 2 + (i & 1)


def registers_of(matrix, formula, operand, count):
    elements = np.stack([matrix[formula(i, operand)] for i in range(count)], axis=1)
    return np.ascontiguousarray(elements).view(np.uint32)


def d_registers(matrix):
    return np.stack([matrix[fragment_d(i)] for i in range(4)], axis=1)


@pytest.mark.parametrize(
    ("case", "dtype", "k", "formula"),
    [
        ("mma_bfloat16", ml_dtypes.bfloat16, 16, fragment_16bit),
        ("mma_float16", np.float16, 16, fragment_16bit),
        ("mma_tf32", np.float32, 8, fragment_tf32),
    ],
)
def test_mma_is_the_matrix_product(program, case, dtype, k, formula):
    # Integers, so that every sum is exact in any order and one misplaced element shows.
    random = np.random.default_rng(3)
    a = random.integers(-60, 60, (16, k)).astype(dtype)
    b = random.integers(-60, 60, (k, 8)).astype(dtype)
    c = random.integers(-1000, 1000, (16, 8)).astype(np.float32)
    per_register = 4 // np.dtype(dtype).itemsize
    registers = (registers_of(a, formula, "a", 4 * per_register), registers_of(b, formula, "b", 2 * per_register))
    d = program(case, *registers, d_registers(c), dtype=np.float32).reshape(32, 4)
    expected = c + a.astype(np.float32) @ b.astype(np.float32)
    np.testing.assert_array_equal(d, d_registers(expected))


def test_mma_of_special_float16(program):
    """Subnormal numbers, infinity and NaN go through as IEEE 754 has them."""
    a, b, c = np.zeros((16, 16), np.float16), np.eye(16, 8, dtype=np.float16), np.zeros((16, 8), np.float32)
    a[0, :5] = [6e-8, -6e-8, 65504, np.inf, np.nan]
    registers = (registers_of(a, fragment_16bit, "a", 8), registers_of(b, fragment_16bit, "b", 4))
    d = program("mma_float16", *registers, d_registers(c), dtype=np.float32).reshape(32, 4)
    with np.errstate(invalid="ignore"):  # infinity times zero
        expected = a.astype(np.float32) @ b.astype(np.float32)
    np.testing.assert_array_equal(d, d_registers(expected))


def test_mma_reads_19_bits_of_tf32(program):
    a, b, c = np.zeros((16, 8), np.float32), np.eye(8, dtype=np.float32), np.zeros((16, 8), np.float32)
    a[:, 0] = np.float32(1) + 2.0**-10 + 2.0 ** -np.arange(11, 27)
    registers = (registers_of(a, fragment_tf32, "a", 4), registers_of(b, fragment_tf32, "b", 2))
    d = program("mma_tf32", *registers, d_registers(c), dtype=np.float32).reshape(32, 4)
    expected = np.zeros((16, 8), np.float32)
    expected[:, 0] = np.float32(1) + 2.0**-10
    np.testing.assert_array_equal(d, d_registers(expected))


def test_conversions(program):
    random = np.random.default_rng(5)
    x = np.concatenate(
        [
            random.standard_normal(200).astype(np.float32) * 10.0 ** random.integers(-9, 9, 200),
            np.array([0, -0.0, 1, -1, np.inf, -np.inf, 65519, 65520, 3e38, -3.4e38, 6e-8, 2e-8], np.float32),
            (np.uint32(0x3F801000) + np.arange(-2, 3).astype(np.uint32)).view(np.float32),  # about tf32's tie
        ]
    ).astype(np.float32)
    tf32, bfloat16, float16 = program("convert", x, numbers=[x.size], dtype=np.uint32).reshape(3, -1)
    bits = x.view(np.uint32)
    np.testing.assert_array_equal(tf32, (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000))
    with np.errstate(over="ignore"):
        for packed, dtype in ((bfloat16, ml_dtypes.bfloat16), (float16, np.float16)):
            halves = packed.view(np.uint16).reshape(-1, 2)
            np.testing.assert_array_equal(halves[:, 0], x.astype(dtype).view(np.uint16))
            np.testing.assert_array_equal(halves[:, 1], x[::-1].astype(dtype).view(np.uint16))


def matrix_registers(matrices, *, transposed):
    """The registers of all lanes after ldmatrix: lane T has elements (T / 4, 2 (T % 4)) and the next of each matrix."""
    if transposed:
        matrices = matrices.swapaxes(1, 2)
    pairs = np.stack([matrices[:, GROUP, THREAD * 2], matrices[:, GROUP, THREAD * 2 + 1]], axis=-1)
    return np.ascontiguousarray(pairs.transpose(1, 0, 2)).view(np.uint32)[..., 0]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(program, count, transposed):
    matrices = np.arange(1000, 1000 + 4 * 64, dtype=np.uint16).reshape(4, 8, 8)
    case = f"ldmatrix_x{count}" + ("_transposed" if transposed else "")
    registers = program(case, matrices, dtype=np.uint32).reshape(32, count)
    np.testing.assert_array_equal(registers, matrix_registers(matrices[:count], transposed=transposed))


@pytest.mark.parametrize("count", [2, 4])
def test_stmatrix(program, count):
    matrices = np.arange(5, 5 + count * 64, dtype=np.uint16).reshape(count, 8, 8)
    stored = program(f"stmatrix_x{count}", matrix_registers(matrices, transposed=False), dtype=np.uint16)
    np.testing.assert_array_equal(stored.reshape(matrices.shape), matrices)


def test_ldmatrix_of_a_misaligned_row(program):
    message = program.error("misaligned_ldmatrix")
    assert "thread (5, 0, 0): ldmatrix_x4: the shared address is not a multiple of 16" in message
    assert "tests/sim/fragments.cu:" in message
