"""What a stage is given, and how it says what it found."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
LONGEST_TEXT = 4000  # characters of one text in the results


class Skip(Exception):  # noqa: N818
    """Raised by a stage that cannot run here; the message says why."""


@dataclass(frozen=True)
class Stage:
    """A module with the function ``run``, the seconds it may take, and what it proves."""

    name: str
    seconds: float
    proves: str
    module: str


@dataclass(frozen=True)
class Setting:
    """Where a stage runs: on the GPU, or in a rehearsal on the device `sim`."""

    device: str
    work: Path  # builds, logs
    out: Path  # results

    @property
    def rehearsal(self) -> bool:
        """Whether there is no GPU."""
        return self.device == "sim"

    @property
    def site(self) -> Path:
        """Where the first stage installs the package."""
        return self.work / "site"

    def environment(self) -> dict[str, str]:
        """For Python processes: they import the package that was built here; a rehearsal takes the one there is."""
        built = [] if self.rehearsal else [self.site]
        places = [*built, ROOT / "scripts", ROOT / "tests", ROOT, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, filter(None, places))), "PYTHONSAFEPATH": "1"}


class Rows:
    """What a stage found, written down at once."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.count = self.failed = 0

    def add(self, name: str, held: bool = True, **found: Any) -> None:
        """One finding; ``held`` is False where it is not as it must be."""
        self.count += 1
        self.failed += not held
        self.write({"name": name, "held": bool(held), **found})

    def write(self, line: dict[str, Any]) -> None:
        """One line of the file."""
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()


def short(text: str) -> str:
    """The end of a text, without the places of this machine."""
    for place, name in ((str(ROOT), "."), (str(Path.home()), "~"), (sys.prefix, "PREFIX")):
        text = text.replace(place, name) if len(place) > 1 else text
    return text[-LONGEST_TEXT:]
