"""The stages, in order of what they are worth: all of them together may take eight minutes."""

from __future__ import annotations

from gpu_check.stage import Stage

BUDGET = 480.0  # seconds

STAGES = tuple(
    Stage(name, seconds, proves, f"gpu_check.{name}")
    for name, seconds, proves in (
        ("build", 210, "the kernels compile for this GPU and do not spill registers"),
        ("op_table", 150, "every op agrees with float64, in all dtypes"),
        ("golden", 60, "the simulator's primitives give the GPU's bits"),
        ("against_sim", 60, "every op gives the simulator's results"),
        ("capture", 30, "captured steps give the bits of eager ones, with dropout"),
        ("determinism", 60, "every op gives the same bits 100 times"),
        ("large", 60, "tensors of more than 2^31 elements are computed to the end"),
        ("kernels", 75, "times beside PyTorch's, and shares of the GPU's ceilings"),
        ("counters", 60, "what the hardware counts in five kernels"),
        ("sanitizer", 75, "compute-sanitizer finds planted bugs, and none in the kernels"),
        ("training", 60, "a model learns the embedded digits"),
    )
)
