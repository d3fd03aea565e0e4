"""Prints the losses of a few training steps of every model in each precision, on the CPU and on another device.

The last column is the largest difference between the two devices' losses. Run it from the checkout:
python scripts/autocast_losses.py [DEVICE]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import test_mixed_precision as bodies

from imgrec_engine import models

PRECISIONS = ("float32", *bodies.HALVES)


def shown(losses: Sequence[float]) -> str:
    """Losses as a column of the table."""
    return " ".join(f"{loss:.5f}" for loss in losses)


def main() -> None:
    """One line for each model and precision."""
    device = sys.argv[1] if len(sys.argv) > 1 else "sim"
    print(f"{'model':<14} {'precision':<10} {'losses on cpu':<25} {'on ' + device:<25} apart    seconds")
    for name in models.names():
        for precision in PRECISIONS:
            start = time.perf_counter()
            here, there = (bodies.train(name, place, precision)[0] for place in ("cpu", device))
            apart = np.abs(np.subtract(here, there)).max()
            seconds = time.perf_counter() - start
            print(f"{name:<14} {precision:<10} {shown(here):<25} {shown(there):<25} {apart:.1e}  {seconds:.1f}")


if __name__ == "__main__":
    main()
