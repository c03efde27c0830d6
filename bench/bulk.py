"""Takes outcomes. Gives their rows to the table `outcomes` by the quickest way of its database, past all our code.

Knows nothing of leases or counters: `executemany` on SQLite and COPY on PostgreSQL, through the bare driver.
"""

import json
import time
import uuid
from collections.abc import Iterable, Sequence

from sqlalchemy.orm import Session, sessionmaker

from bench.work import Work
from db import session
from db.outcomes import COLUMNS, Outcome

INSERT = f"INSERT INTO outcomes ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
COPY = f"COPY outcomes ({', '.join(COLUMNS)}) FROM STDIN"

#: The values of `COLUMNS`, as a driver takes them.
Row = tuple[object, ...]


def rows(work: Sequence[Work], job_id: uuid.UUID, *, database: str) -> list[Row]:
    """Make rows of outcomes, under another job's id."""
    key = job_id.hex if database == "sqlite" else job_id
    at_s = time.time()
    return [_row(key, claim.shard_id, outcome, at_s) for claim, outcomes in work for outcome in outcomes]


def insert(sessions: sessionmaker[Session], chunks: Iterable[Sequence[Row]]) -> None:
    """Insert rows, a chunk in a transaction."""
    engine = session.engine_of(sessions)
    write = _executemany if engine.dialect.name == "sqlite" else _copy
    pooled = engine.raw_connection()
    try:
        for chunk in chunks:
            write(pooled.driver_connection, chunk)
    finally:
        pooled.close()


def _executemany(connection: object, chunk: Sequence[Row]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(INSERT, chunk)
    connection.execute("COMMIT")


def _copy(connection: object, chunk: Sequence[Row]) -> None:
    with connection.transaction(), connection.cursor() as cursor, cursor.copy(COPY) as copy:
        for row in chunk:
            copy.write_row(row)


def _row(job_id: object, shard_id: int, one: Outcome, at_s: float) -> Row:
    top_k = json.dumps(one.top_k, separators=(",", ":"))
    return (
        job_id, one.position, shard_id, one.key, one.reference, one.label, one.score, top_k, one.version_id, None, None,
        None, at_s, None,
    )  # fmt: skip
