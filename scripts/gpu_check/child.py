"""Runs one stage: python -m gpu_check.child MODULE DEVICE WORK OUT ROWS, the last being the file for what it finds."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from gpu_check.stage import Rows, Setting, Skip, short


def main() -> int:
    """Writes rows and, as the last line, status and note."""
    module, device, work, out, file = sys.argv[1:]
    with Path(file).open("w") as lines:
        rows = Rows(lines)
        try:
            note = importlib.import_module(module).run(Setting(device, Path(work), Path(out)), rows)
            status = "failed" if rows.failed else "passed"
            if rows.failed:
                note = f"{rows.failed} of {rows.count} rows failed; {note}"
        except Skip as reason:
            status, note = "skipped", str(reason)
        except Exception as error:
            traceback.print_exc()
            lines_of_error = str(error).strip().splitlines() or [""]
            status, note = "failed", f"{type(error).__name__}: {lines_of_error[0]}"
        rows.write({"status": status, "note": short(note)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
