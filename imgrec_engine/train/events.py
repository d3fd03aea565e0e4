"""What a run measures, line by line in metrics.jsonl and, where tensorboardX is installed, for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imgrec_engine import checkpoint

METRICS = "metrics.jsonl"


class Measurements:
    """The measurements in a run's folder: one record for each epoch, and one of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def read(self) -> list[dict[str, Any]]:
        """All records, in order; a last line that a crash left half written is not one."""
        path = self.folder / METRICS
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def keep(self, epochs: int) -> None:
        """Drops what was recorded after that many epochs, so that no epoch is told twice."""
        kept = [record for record in self.read() if record.get("epoch", 1 << 62) <= epochs]
        with checkpoint.replacing(self.folder / METRICS) as file:
            file.writelines((json.dumps(record) + "\n").encode() for record in kept)

    def add(self, record: dict[str, Any], epoch: int) -> None:
        """Writes a record; its numbers are TensorBoard's scalars at this epoch."""
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._writer is None:
            self._writer = _event_writer(self.folder, epoch)
        if self._writer is not None:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    part, _, kind = name.partition("_")
                    tag = f"{kind}/{part}" if part in ("train", "validation", "test") else f"run/{name}"
                    self._writer.add_scalar(tag, value, epoch)
            self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _event_writer(folder: Path, epoch: int) -> Any:
    """TensorBoard's writer, which lets what was written for this epoch and later by a stopped run be forgotten."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=epoch)
