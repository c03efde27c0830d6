"""Takes the lines of JSON that fault tests left. Gives the table of docs/reliability.md, between its two marks.

Knows nothing of how a fault was made. `python -m tests.chaos.report chaos.jsonl`
"""

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import date
from importlib.metadata import version
from pathlib import Path

from bench.report import write_between
from tests.chaos.rows import Row

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGINS, ENDS = "<!-- written by tests.chaos.report: begins -->", "<!-- written by tests.chaos.report: ends -->"
#: what is named beside the figures
MEASURED_WITH = ("celery", "kombu", "redis", "sqlalchemy")


def main() -> int:
    """Write the table into the page."""
    parser = argparse.ArgumentParser(prog="tests.chaos.report", description="Write rows into docs/reliability.md.")
    parser.add_argument("files", nargs="+", type=Path, help="what IMAGEMILL_TEST_CHAOS_JSON named")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    write_between(asked.page, BEGINS, ENDS, table(read(asked.files)))
    return 0


def read(files: Iterable[Path]) -> list[Row]:
    """Read the rows in the order of their numbers; of one that was run again, the last."""
    known = {field.name for field in fields(Row)}
    last: dict[tuple[str, str, str], Row] = {}
    for line in (line for file in files for line in file.read_text().splitlines()):
        found = {name: value for name, value in json.loads(line).items() if name in known}
        row = Row(**{**found, "recovery_s": tuple(found["recovery_s"])})
        last[row.number, row.database, row.fault] = row
    return sorted(last.values(), key=_order)


def _order(row: Row) -> tuple[float, str]:
    return (float(row.number) if row.number.isdecimal() else math.inf, row.number)


def table(found: Sequence[Row]) -> Iterator[str]:
    """Give the lines of the table."""
    versions = ", ".join(f"{name} {version(name)}" for name in MEASURED_WITH)
    python = platform.python_version()
    yield f"\nMeasured {date.today().isoformat()} on {os.cpu_count()} cores. Python {python}, {versions}.\n"  # noqa: DTZ011 - a day in a table
    yield "| row | fault | ledger | items | recorded | lost | unexpected | twice | executions | recovery | seen |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    yield from map(_line, found)
    yield ""


def _line(row: Row) -> str:
    executions = "" if row.executions is None else f"{row.executions:.3g}"
    cells = (
        row.number, row.fault, row.database, f"{row.submitted:,}", f"{row.recorded:,}", row.lost, row.unexpected,
        row.duplicates, executions, _recovery(row.recovery_s), row.note,
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _recovery(seconds: Sequence[float]) -> str:
    if not seconds:
        return ""
    middle, most = (percentile(seconds, share) for share in (0.5, 0.99))
    return f"{middle:.1f} s" if len(seconds) == 1 else f"{middle:.1f} s, p99 {most:.1f} s"


def percentile(figures: Sequence[float], share: float) -> float:
    """Give the smallest figure that this share of all does not exceed."""
    return sorted(figures)[max(0, math.ceil(share * len(figures)) - 1)]


if __name__ == "__main__":
    sys.exit(main())
