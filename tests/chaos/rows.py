"""Takes what a fault did to the work. Gives a row of the table in docs/reliability.md.

Knows nothing of faults. The verdict is that of Jepsen's total-queue, taken after everything has drained.
"""

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: file to which every row is added as a line of JSON, if it is set: `make chaos` sets it
JSON = os.environ.get("IMAGEMILL_TEST_CHAOS_JSON")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of the work of one fault."""

    #: "1" to "25" of the fault table, or a word: "soak"
    number: str
    #: a few words: "SIGKILL of a worker, 20 times"
    fault: str
    #: "sqlite" or "postgresql"
    database: str
    #: items that were acknowledged
    submitted: int
    #: items of them that have an outcome
    recorded: int
    #: outcomes that nobody asked for
    unexpected: int = 0
    #: outcomes beyond the first of an item
    duplicates: int = 0
    #: times that work was begun, by the jobs (or runs) there were; None where it was not counted
    executions: float | None = None
    #: from each fault to the next outcome that was recorded
    recovery_s: tuple[float, ...] = ()
    #: what else the row promises, as it was seen
    note: str = ""

    @classmethod
    def of(cls, positions: Counter[int], num_submitted: int, **facts: Any) -> "Row":
        """Fill a row from how often each position of one job was recorded; all that were submitted have one."""
        expected = set(range(num_submitted))
        return cls(
            submitted=num_submitted,
            recorded=len(positions.keys() & expected),
            unexpected=facts.pop("unexpected", len(positions.keys() - expected)),
            duplicates=positions.total() - len(positions),
            **facts,
        )

    @property
    def lost(self) -> int:
        """Items that were acknowledged and have no outcome."""
        return self.submitted - self.recorded


def check(row: Row) -> None:
    """Keep the row for the table, and fail unless nothing was lost, made up or recorded twice."""
    if JSON:
        with Path(JSON).open("a") as lines:
            lines.write(json.dumps({**asdict(row), "lost": row.lost}) + "\n")
    assert (row.lost, row.unexpected, row.duplicates) == (0, 0, 0), row
