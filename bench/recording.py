"""Takes nothing. Gives rows/s of `leases.finish_all` beside a bulk insert of the same rows into the same table.

Knows nothing of workers: `python -m bench.recording` claims shards beforehand and ends them as a worker does, a few in
a transaction; the bulk insert puts as many rows into a transaction. Both by turns, in one database.
"""

import argparse
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from bench import bulk, ledgers, rows, work
from db import session

#: How each database takes rows in bulk.
PEERS = {"sqlite": "executemany", "postgresql": "COPY"}


def main() -> int:
    """Measure both databases and print the rows."""
    asked = _arguments()
    pairs = [(database, num_shards) for database in asked.databases for num_shards in asked.shards]
    seen = [row for database, num_shards in pairs for row in _measure(database, num_shards, asked)]
    rows.show("Recording", seen)
    if asked.json:
        rows.write(Path(asked.json), seen)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.recording", description="Measure recording beside a bulk insert.")
    parser.add_argument("--rows", type=int, default=40_000, help="outcomes recorded in a round")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, ours and theirs by turns")
    parser.add_argument("--shard-size", type=int, default=64, help="items in a shard")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 8], help="shards ended in one transaction")
    parser.add_argument("--databases", nargs="+", choices=ledgers.DATABASES, default=ledgers.DATABASES)
    parser.add_argument("--json", metavar="FILE", help="write the figures too")
    return parser.parse_args()


def _measure(database: str, num_shards: int, asked: argparse.Namespace) -> Iterator[rows.Row]:
    num_rows = asked.shard_size * num_shards
    num_items = asked.rows // num_rows * num_rows
    ours, making, ready = [], [], []
    with ledgers.running(database) as url, session.connected(url) as sessions:
        for _ in range(asked.rounds):
            shards = list(work.claimed(sessions, num_items, shard_size=asked.shard_size))
            chunks = [shards[start : start + num_shards] for start in range(0, len(shards), num_shards)]
            ours.append(num_items / _seconds(_finish, sessions, chunks))
            first, second = uuid.uuid4(), uuid.uuid4()
            made = (bulk.rows(chunk, first, database=database) for chunk in chunks)
            making.append(num_items / _seconds(bulk.insert, sessions, made))
            there = [bulk.rows(chunk, second, database=database) for chunk in chunks]
            ready.append(num_items / _seconds(bulk.insert, sessions, there))
    for how, theirs in (("of the same outcomes, made into rows", making), ("of rows made beforehand", ready)):
        yield rows.Row(
            work=f"record {num_items:,} outcomes, {num_rows} in a transaction, {database}",
            against=f"{PEERS[database]} {how}, as many in a transaction",
            ours=tuple(ours),
            theirs=tuple(theirs),
            unit="rows/s",
            at_least=0.7,
        )


def _finish(sessions: sessionmaker[Session], chunks: Sequence[Sequence[work.Work]]) -> None:
    for chunk in chunks:
        work.finish(sessions, chunk)


def _seconds(do: Callable[..., object], *given: object) -> float:
    started_s = time.perf_counter()
    do(*given)
    return time.perf_counter() - started_s


if __name__ == "__main__":
    sys.exit(main())
