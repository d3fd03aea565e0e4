"""Stage 3: what the GPU's primitives give, bit for bit, for tests/sim to compare the simulator with on every machine.

A vector is a case of the programs of tests/sim/*.cu with the bytes that went in and came out. `scripts/gpu_check.sh`
writes them to golden.json; kept as tests/golden/primitives.json they are what tests/sim/test_golden.py compares with.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gpu_check import machine
from gpu_check.stage import ROOT, Rows, Setting

KEPT = ROOT / "tests" / "golden" / "primitives.json"
HOPPER = ("stmatrix_x2", "stmatrix_x4", "mbarrier_bulk_pipeline", "cluster")  # cases that need compute capability 9.0
RARELY = (0.49, 0.49, 0.008, 0.006, 0.006)
CLOSE = 1e-5  # of sums whose order is the tensor core's own, relative to the largest result


@dataclass(frozen=True)
class Vector:
    """One run of a case. ``compare`` says what must be equal: "bits"; "values", where any NaN will do; "close"."""

    name: str
    case: str
    numbers: tuple[int, ...]
    input: bytes
    compare: str = "bits"
    output: bytes = b""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        binary = {name: base64.b64encode(getattr(self, name)).decode() for name in ("input", "output")}
        return {"name": self.name, "case": self.case, "numbers": self.numbers, "compare": self.compare, **binary}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Vector:
        """Reads what ``to_json`` gave."""
        binary = {name: base64.b64decode(data[name]) for name in ("input", "output")}
        return cls(data["name"], data["case"], tuple(data["numbers"]), compare=data["compare"], **binary)


def run(setting: Setting, rows: Rows) -> str:
    """A row for each vector: whether the simulator gives what the GPU gave, and gives what is kept in tests/golden.

    In a rehearsal the simulator takes the GPU's part, and its other schedule the simulator's.
    """
    simulated = build_for_sim(setting.work / "golden-sim")
    program = simulated if setting.rehearsal else build_for_gpu(setting.work / "golden")
    kept = {vector.name: vector for vector in read(KEPT)} if KEPT.exists() else {}
    found = []
    for vector in vectors():
        if vector.case in HOPPER and not (setting.rehearsal or machine.capability() >= 90):
            continue
        output = call(program, vector)
        found.append(Vector(vector.name, vector.case, vector.numbers, vector.input, vector.compare, output))
        again = call(simulated, vector, schedule="reversed")
        held = agrees(vector.compare, again, output)
        if vector.name in kept:
            held &= agrees(vector.compare, kept[vector.name].output, output)
        rows.add(vector.name, held, bytes=len(output), same_bits=again == output, kept=vector.name in kept)
    write(setting.out / "golden.json", found, machine.gpus())
    return f"{len(found)} vectors, {len(kept)} of them kept in tests/golden"


def agrees(compare: str, ours: bytes, theirs: bytes) -> bool:
    """Whether two outputs of a case are the same, as far as they must be."""
    if compare == "bits" or len(ours) != len(theirs):
        return ours == theirs
    a, b = np.frombuffer(ours, np.float32), np.frombuffer(theirs, np.float32)
    if compare == "values":
        return np.array_equal(a, b, equal_nan=True)
    return bool((np.abs(a - b) <= CLOSE * np.abs(b).max()).all())  # not where there is NaN


def read(path: Path) -> list[Vector]:
    """The vectors of a file."""
    return [Vector.from_json(data) for data in json.loads(path.read_text())["vectors"]]


def write(path: Path, found: Sequence[Vector], gpus: list[dict[str, str]]) -> None:
    """A file with vectors, and the GPU that they come from."""
    lines = ",\n".join(json.dumps(vector.to_json()) for vector in found)
    path.write_text(f'{{"gpus": {json.dumps(gpus)},\n"vectors": [\n{lines}\n]}}\n')


# --- The programs ---------------------------------------------------------------------------------------------------


def build_for_gpu(build: Path) -> Path:
    """The program, compiled by nvcc."""
    build.mkdir(parents=True, exist_ok=True)
    sources = sorted(map(str, (ROOT / "tests" / "sim").glob("*.cu")))
    command = [*machine.nvcc(), "-std=c++20", "-O2", "-Icsrc", "-I.", "--threads", str(os.cpu_count())]
    subprocess.run([*command, *sources, "-o", str(build / "program")], cwd=ROOT, check=True)
    return build / "program"


def build_for_sim(build: Path) -> Path:
    """The same program, with the simulator."""
    command = ["make", "-s", "-f", "csrc/sim/program.mk", f"-j{os.cpu_count()}", f"BUILD={build}"]
    subprocess.run([*command, "SOURCES=tests/sim/*.cu"], cwd=ROOT, check=True)
    return build / "program"


def call(program: Path, vector: Vector, schedule: str = "eager") -> bytes:
    """What the case writes; an error of the program, with its message, where it fails."""
    command = [str(program), vector.case, "1", *map(str, vector.numbers)]
    environment = {**os.environ, "IMGREC_SIM_SCHEDULE": schedule}
    done = subprocess.run(command, input=vector.input, capture_output=True, env=environment, timeout=30, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{vector.case}: {done.stderr.decode(errors='replace')}")
    return done.stdout


# --- The vectors ----------------------------------------------------------------------------------------------------


def vectors() -> Iterator[Vector]:
    """All cases, with their inputs."""
    yield from _matrix_io()
    yield from _products()
    yield from _conversions()
    yield from _warps()
    yield from _together()


def _random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def _matrix_io() -> Iterator[Vector]:
    rows = _random(1).integers(0, 1 << 16, (4, 8, 8)).astype(np.uint16).tobytes()
    for count in (1, 2, 4):
        for order in ("", "_transposed"):
            yield Vector(f"ldmatrix x{count}{order}", f"ldmatrix_x{count}{order}", (), rows)
    for count in (2, 4):
        registers = _random(2).integers(0, 1 << 32, (32, count)).astype(np.uint32)
        yield Vector(f"stmatrix x{count}", f"stmatrix_x{count}", (), registers.tobytes())


def _products() -> Iterator[Vector]:
    """Register contents as they lie: the order of their elements is the instruction's affair, and what is tested."""
    for case, dtype in (
        ("mma_bfloat16", np.dtype(ml_dtypes.bfloat16)),
        ("mma_float16", np.dtype(np.float16)),
        ("mma_tf32", np.dtype(np.float32)),
    ):
        random, width = _random(3), 4 // dtype.itemsize
        sizes = (32 * 4 * width, 32 * 2 * width, 32 * 4)

        def registers(*operands: Any, dtype: Any = dtype) -> bytes:
            a, b, d = operands
            return b"".join((a.astype(dtype).tobytes(), b.astype(dtype).tobytes(), d.astype(np.float32).tobytes()))

        integers = registers(*(random.integers(-60, 60, size) for size in sizes))
        yield Vector(f"{case}, integers", case, (), integers)
        single = registers(np.arange(sizes[0]) == 37, np.arange(sizes[1]), np.zeros(sizes[2]))
        yield Vector(f"{case}, a single element", case, (), single)
        special = [random.choice([1.0, -1.0, np.inf, -np.inf, np.nan], size, p=RARELY) for size in sizes]
        yield Vector(f"{case}, infinities and NaN", case, (), registers(*special), "values")
        small = [random.integers(-3, 4, size) * 2.0**-24 for size in sizes[:1]]
        powers = registers(*small, random.integers(-3, 4, sizes[1]), np.zeros(sizes[2]))
        yield Vector(f"{case}, subnormal numbers", case, (), powers, "values")
        normal = registers(*(random.standard_normal(size) for size in sizes))
        yield Vector(f"{case}, random numbers", case, (), normal, "close")


def _conversions() -> Iterator[Vector]:
    random = _random(4)
    x = (random.standard_normal(500) * 10.0 ** random.integers(-9, 9, 500)).astype(np.float32)
    edges = np.array([0, -0.0, np.inf, -np.inf, 65519, 65520, 3e38, -3.4e38, 6e-8, 2e-8, 1e-40], np.float32)
    ties = (np.uint32(0x3F801000) + np.arange(-2, 3).astype(np.uint32)).view(np.float32)
    halfway = (np.uint32(0x3F800000) + np.arange(8).astype(np.uint32) * np.uint32(0x8000)).view(np.float32)
    for name, values in {"random numbers": x, "edges": np.concatenate([edges, ties, halfway])}.items():
        yield Vector(f"to tf32, bfloat16, float16: {name}", "convert", (values.size,), values.tobytes())


def _warps() -> Iterator[Vector]:
    x = _random(5).integers(-1000, 1000, 32).astype(np.int32).tobytes()
    for amount in (1, 3, 7, 16):
        for width in (32, 8):
            yield Vector(f"shuffles by {amount} in {width} lanes", "shuffles", (amount, width), x)
    yield Vector("shuffles and votes of parts of a warp", "partial_masks", (), b"")
    yield Vector("votes of a diverged warp", "diverged", (), b"")
    for threads in (32, 96, 1024):
        values = _random(6).standard_normal(threads).astype(np.float32)
        yield Vector(f"sums and maxima of {threads} threads", "reductions", (threads,), values.tobytes())


def _together() -> Iterator[Vector]:
    tiles = _random(7).standard_normal((9, 256)).astype(np.float32)
    yield Vector("asynchronous copies", "copy_pipeline", (9,), tiles.tobytes())
    yield Vector("asynchronous copies or zeros", "copy_or_zero", (), tiles[0].tobytes())
    for case in ("mbarrier_pipeline", "mbarrier_bulk_pipeline"):
        yield Vector(case.replace("_", " "), case, (18,), tiles.tobytes())
    yield Vector("polling an mbarrier", "mbarrier_polling", (), b"")
    yield Vector("named barriers", "named_barriers", (9,), b"")
    yield Vector("clusters", "cluster", (8, 4), b"")
    ring = _random(8).integers(0, 9, (2, 4 * 32)).astype(np.int32)
    yield Vector("grid barrier", "grid_barrier", (4, 5, 1), ring.tobytes())
    yield Vector("passing a token", "token", (100,), b"")
    x = _random(9).integers(-50, 1000, 40 * 64).astype(np.int32)
    yield Vector("atomics", "atomics", (40,), x.tobytes())
