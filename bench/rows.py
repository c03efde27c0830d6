"""Takes figures of two contenders, measured side by side in one run. Gives the rows that docs/performance.md shows.

Knows nothing of what was measured. A row without a `reach` is only reported.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from worker.cli import output

#: What a figure may depend on.
PACKAGES = ("torch", "torchvision", "pillow", "celery", "kombu", "redis", "sqlalchemy", "psycopg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One promise: what we did beside what another did, in the same unit, in the same run."""

    #: what was done, with how much of it
    work: str
    #: the floor or the peer
    against: str
    #: one figure per round
    ours: tuple[float, ...]
    #: one figure per round
    theirs: tuple[float, ...]
    #: of both, such as "images/s" or "ms"
    unit: str
    #: `ours / theirs` must be at least this; None only reports
    at_least: float | None = None
    #: `ours - theirs` must be at most this; None only reports
    adds_at_most: float | None = None
    #: `ours` alone must be at most this; None only reports
    at_most: float | None = None
    #: what the reader must know to read it right
    note: str = ""

    @property
    def ratio(self) -> float:
        """The medians' ratio, ours over theirs."""
        return statistics.median(self.ours) / statistics.median(self.theirs) if self.theirs else float("nan")

    @property
    def is_reached(self) -> bool | None:
        """Whether the promise holds; None where nothing was promised."""
        ours = statistics.median(self.ours)
        if self.at_least is not None:
            return self.ratio >= self.at_least
        if self.adds_at_most is not None:
            return ours - statistics.median(self.theirs) <= self.adds_at_most
        return None if self.at_most is None else ours <= self.at_most

    @property
    def reach(self) -> str:
        """The promise, in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g} x"
        if self.adds_at_most is not None:
            return f"adds at most {self.adds_at_most:g} {self.unit}"
        return "" if self.at_most is None else f"at most {self.at_most:g} {self.unit}"

    @property
    def verdict(self) -> str:
        """What was seen of the promise."""
        if self.adds_at_most is not None:
            return f"adds {statistics.median(self.ours) - statistics.median(self.theirs):.3g} {self.unit}"
        return f"{self.ratio:.2f} x" if self.theirs else ""


def write(file: Path, rows: Iterable[Row], **more: object) -> None:
    """Write rows with the machine and the versions they were seen on, and whatever else the run has to say."""
    report = {"machine": machine(), "versions": versions(), "rows": [asdict(row) for row in rows], **more}
    file.write_text(json.dumps(report, indent=2))


def read(file: Path) -> list[Row]:
    """Read the rows that `write` wrote."""
    return [
        Row(**{**row, "ours": tuple(row["ours"]), "theirs": tuple(row["theirs"])})
        for row in json.loads(file.read_text())["rows"]
    ]


def machine() -> str:
    """Name the machine a figure was seen on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def versions() -> dict[str, str]:
    """Name the versions that matter."""
    return {package: metadata.version(package) for package in PACKAGES}


def show(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table; a figure is its rounds' median, and its rounds."""
    output.table(
        f"\n{title}",
        ("work", "against", "ours", "theirs", "seen", "reach", ""),
        ((row.work, row.against, _figures(row.ours, row.unit), _figures(row.theirs, row.unit), row.verdict, row.reach,
          {True: "reached", False: "MISSED", None: ""}[row.is_reached]) for row in rows),
    )  # fmt: skip


def _figures(rounds: Sequence[float], unit: str) -> str:
    if not rounds:
        return ""
    each = " ".join(f"{figure:,.4g}" for figure in rounds)
    return f"{statistics.median(rounds):,.4g} {unit}" + (f" ({each})" if len(rounds) > 1 else "")
