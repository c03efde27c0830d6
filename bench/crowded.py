"""Takes nothing. Gives what a ledger with a million outcomes costs: questions in milliseconds, claims and records.

Knows nothing of processes or messages. `python -m bench.crowded` records a job of a million items by the worker's own
way, then asks, and claims and records in it beside an empty ledger, by turns.
"""

import argparse
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from bench import ledgers, memory, rows, work
from db import jobs, outcomes, registry, session, workers
from worker import export, intake, messages, sizing

#: Milliseconds of SQL that one question may take.
MOST_MS = 50
#: Megabytes that the process may grow by while all outcomes are exported.
EXPORT_MB = 16
#: Shards recorded in one transaction while the ledger is filled.
SHARDS = 16


def main() -> int:
    """Measure both databases and print the rows."""
    asked = _arguments()
    seen = [row for database in asked.databases for row in _measure(database, asked)]
    rows.show(f"A ledger with {asked.items:,} outcomes", seen)
    if asked.json:
        rows.write(Path(asked.json), seen)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.crowded", description="Measure a ledger that holds much.")
    parser.add_argument("--items", type=int, default=1_000_000, help="outcomes in the ledger")
    parser.add_argument("--work", type=int, default=12_800, help="items claimed and recorded in a round")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions; the median counts")
    parser.add_argument("--shard-size", type=int, default=64, help="items in a shard")
    parser.add_argument("--databases", nargs="+", choices=ledgers.DATABASES, default=ledgers.DATABASES)
    parser.add_argument("--json", metavar="FILE", help="write the figures too")
    return parser.parse_args()


def _measure(database: str, asked: argparse.Namespace) -> Iterator[rows.Row]:
    with _made(database) as full, _made(database) as empty:
        before = ledgers.size_bytes(full)
        job_id = work.submit(full, asked.items, shard_size=asked.shard_size)
        while claims := work.claims(full, max_items=SHARDS * asked.shard_size):
            work.finish(full, [(claim, work.outcomes(claim)) for claim in claims])
        ledgers.analyse(full)
        grown = (ledgers.size_bytes(full) - before) / asked.items
        what = f"at {asked.items:,} outcomes, {database}"
        yield rows.Row(work=f"ledger {what}", against="-", ours=(grown,), theirs=(), unit="bytes/item")
        yield from _questions(full, job_id, what, asked)
        yield _export(full, job_id, what)
        pairs = [(_rate(full, asked), _rate(empty, asked)) for _ in range(asked.rounds)]
    yield rows.Row(
        work=f"claim and record {asked.work:,} items {what}", against="the same in an empty ledger",
        ours=tuple(ours for ours, _ in pairs), theirs=tuple(theirs for _, theirs in pairs), unit="items/s",
        at_least=0.9,
    )  # fmt: skip


@contextmanager
def _made(database: str) -> Iterator[sessionmaker[Session]]:
    with ledgers.running(database) as url, session.connected(url) as sessions:
        yield sessions


def _questions(
    full: sessionmaker[Session], job_id: uuid.UUID, what: str, asked: argparse.Namespace
) -> Iterator[rows.Row]:
    ask: dict[str, Callable[[Session], object]] = {
        "jobs show": lambda reading: intake.job_status(reading, job_id),
        "jobs list": lambda reading: jobs.jobs(reading, limit=20),
        "status": _status,
        "a page of 1,000 results at the end": lambda reading: outcomes.page(
            reading, job_id, after=asked.items - 1001, limit=1000
        ),
    }
    for name, question in ask.items():
        seen = tuple(_sql_ms(full, question) for _ in range(asked.rounds))
        yield rows.Row(work=f"{name} {what}", against="-", ours=seen, theirs=(), unit="ms of SQL", at_most=MOST_MS)


def _status(reading: Session) -> None:
    workers.list_alive(reading, within_s=sizing.ALIVE_S)
    jobs.waiting_items(reading)
    registry.models(reading)
    registry.serving(reading, ledgers.MODEL)
    jobs.jobs(reading, limit=50)


def _sql_ms(sessions: sessionmaker[Session], question: Callable[[Session], object]) -> float:
    """Time a question from its first statement to the last row it read, on a connection that is open."""
    began_s: list[float] = []

    def note(*_: object) -> None:
        began_s.append(time.perf_counter())

    engine = session.engine_of(sessions)
    event.listen(engine, "before_cursor_execute", note)
    try:
        with session.reading(sessions) as reading:
            question(reading)
            return 1000 * (time.perf_counter() - began_s[0])
    finally:
        event.remove(engine, "before_cursor_execute", note)


def _export(sessions: sessionmaker[Session], job_id: uuid.UUID, what: str) -> rows.Row:
    looks: list[float] = []

    def result(row: outcomes.Recorded) -> messages.Result:
        if row.position % 10_000 == 0:
            looks.append(memory.own())
        return intake.as_result(row)

    with tempfile.TemporaryDirectory(prefix="im-bench-") as folder, session.reading(sessions) as reading:
        export.write(map(result, outcomes.stream(reading, job_id)), Path(folder) / "outcomes.jsonl", None)
    grown_mb = max(looks) - looks[0]
    return rows.Row(
        work=f"memory of an export {what}", against="-", ours=(grown_mb,), theirs=(), unit="MB", at_most=EXPORT_MB
    )


def _rate(sessions: sessionmaker[Session], asked: argparse.Namespace) -> float:
    """Claim and record a job of its own, four batches of 32 at a time; gives items/s, submitting left out."""
    work.submit(sessions, asked.work, shard_size=asked.shard_size)
    spent: list[float] = []
    while True:
        started_s = time.perf_counter()
        claims = work.claims(sessions, max_items=128)
        claimed_s = time.perf_counter() - started_s
        if not claims:
            return asked.work / sum(spent)
        done = [(claim, work.outcomes(claim)) for claim in claims]
        started_s = time.perf_counter()
        work.finish(sessions, done)
        spent.append(claimed_s + time.perf_counter() - started_s)


if __name__ == "__main__":
    sys.exit(main())
