"""Takes classify workers' logs. Gives milliseconds per image and stage, from the line that each sitting leaves."""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: What `worker.sittings.Tally` says of itself.
SITTING = re.compile(
    r"(?P<items>\d+) items \(\d+ failed[^)]*\) of (?P<shards>\d+) shards in (?P<batches>\d+) batches on \S+ in \S+ s: "
    r"claim \S+ fetch (?P<fetch>\S+) decode (?P<decode>\S+) forward (?P<forward>\S+) record (?P<record>\S+)"
)


#: Seconds that a sitting may go on after its last job has ended.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Milliseconds per image; fetch and decode are seconds of threads, which overlap the others."""

    items_per_batch: float
    fetch_ms: float
    decode_ms: float
    forward_ms: float
    record_ms: float


def mark(logs: Iterable[Path]) -> dict[Path, int]:
    """Note how long the logs are now."""
    return {log: log.stat().st_size for log in logs}


def since(marks: dict[Path, int], *, num_items: int = 1) -> Spent:
    """Add up the sittings logged since then, once they tell of `num_items`: a job ends before its sitting."""
    give_up_s = time.monotonic() + PATIENCE_S
    while _num_items(found := _sittings(marks)) < num_items:
        assert time.monotonic() < give_up_s, f"{[*marks]} tell of fewer than {num_items} items"
        time.sleep(0.05)
    total = {name: sum(float(sitting[name]) for sitting in found) for name in SITTING.groupindex}
    per_image = {f"{name}_ms": 1000 * total[name] / total["items"] for name in ("fetch", "decode", "forward", "record")}
    return Spent(items_per_batch=total["items"] / total["batches"], **per_image)


def _num_items(sittings: Iterable[dict[str, str]]) -> int:
    return sum(int(sitting["items"]) for sitting in sittings)


def _sittings(marks: dict[Path, int]) -> list[dict[str, str]]:
    found = []
    for log, at in marks.items():
        with log.open() as lines:
            lines.seek(at)
            found += [match.groupdict() for match in map(SITTING.search, lines) if match]
    return found
