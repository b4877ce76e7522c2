"""Run after pytest: fails when the coverage of a part is below its floor."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from coverage import Coverage

#: Percent of lines, by folder; the empty folder is everything.
FLOORS = {"wedsync/domain": 95.0, "workflows": 95.0, "activities": 95.0, "": 90.0}


def covered_percent(files: dict[str, dict[str, int]], folder: str) -> float:
    """The percentage of covered lines in `folder`, by coverage's own JSON summary of each file."""
    chosen = [summary for name, summary in files.items() if not folder or Path(name).is_relative_to(folder)]
    statements = sum(summary["num_statements"] for summary in chosen)
    return 100.0 * sum(summary["covered_lines"] for summary in chosen) / statements if statements else 0.0


def main() -> int:
    """Print each part with its floor; 1 when one is below."""
    coverage = Coverage()
    coverage.load()
    with TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        coverage.json_report(outfile=str(report))
        files = {name: entry["summary"] for name, entry in json.loads(report.read_text())["files"].items()}
    out = io.StringIO()
    is_low = False
    for folder, floor in FLOORS.items():
        percent = covered_percent(files, folder)
        low = percent < floor
        is_low = is_low or low
        out.write(
            f"coverage {folder or 'all':<16}{percent:6.1f} %  (floor {floor:.0f} %){'  TOO LOW' if low else ''}\n"
        )
    sys.stdout.write(out.getvalue())
    return 1 if is_low else 0


if __name__ == "__main__":
    sys.exit(main())
