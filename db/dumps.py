"""The ledger as plain values, and back: from SQLite to PostgreSQL, or the other way.

Takes a connection. Gives every row of one moment in values that JSON has, and writes such rows into an empty ledger.
Knows nothing of files, or of what the rows mean.
"""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import JSON, Connection, LargeBinary, Table, Uuid, func, inspect, select, table, text
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.types import TypeEngine

from db import session as database
from db.models import metadata

#: rows held in memory at once
CHUNK_ROWS = 5_000
#: heartbeats, and what is asked of who sends them, are of processes that will not be there
LEFT_OUT = frozenset({"drains", "workers"})

#: kinds of columns that are not plain -> their type
KINDS: dict[str, type[TypeEngine[Any]]] = {"uuid": Uuid, "bytes": LargeBinary, "json": JSON}
PLAIN = "plain"
#: kind of column -> how a value becomes one of JSON's, where it is none
GIVEN: dict[str, Callable[[Any], Any]] = {
    "uuid": lambda value: value.hex,
    "bytes": lambda value: base64.b64encode(value).decode(),
}
#: kind of column -> how a driver takes what an archive kept
TAKEN: dict[str, Callable[[Any], Any]] = {
    "bytes": base64.b64decode,
    "json": partial(json.dumps, separators=(",", ":"), ensure_ascii=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A table's name and columns, as an archive keeps them."""

    name: str
    columns: tuple[str, ...]
    #: a key of KINDS for each column, or PLAIN
    kinds: tuple[str, ...]


def shapes() -> list[Shape]:
    """Describe every table, those that others refer to first."""
    return [
        Shape(
            name=found.name,
            columns=tuple(one.name for one in found.columns),
            kinds=tuple(_kind(one.type) for one in found.columns),
        )
        for found in _tables()
    ]


@contextmanager
def moment(sessions: sessionmaker[Session]) -> Iterator[Connection]:
    """Open a transaction that sees the ledger as it is now, however long it takes and whoever writes meanwhile."""
    engine = database.engine_of(sessions)
    options: dict[str, Any] = {"imagemill_reads": True}
    if engine.dialect.name == "postgresql":
        options |= {"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"}
    with database.reaching(engine), engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


def num_rows(connection: Connection, name: str) -> int:
    """Count a table's rows."""
    return connection.execute(select(func.count()).select_from(table(name))).scalar_one()


def chunks(connection: Connection, shape: Shape) -> Iterator[list[tuple[Any, ...]]]:
    """Read a table by its primary key, some thousand rows at a time, each as JSON's values."""
    source = metadata.tables[shape.name]
    chosen = select(source).order_by(*source.primary_key.columns).execution_options(yield_per=CHUNK_ROWS)
    spell = [GIVEN.get(kind) for kind in shape.kinds]
    for rows in connection.execute(chosen).partitions():
        yield [_each(spell, row) for row in rows]


def write(connection: Connection, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
    """Write rows that `chunks` gave into a table that has these columns."""
    # PostgreSQL reads a UUID in hex, and SQLite keeps it so.
    read = [TAKEN.get(kind) for kind in shape.kinds]
    database.copy_rows(connection, shape.name, shape.columns, [_each(read, row) for row in rows])


def is_empty(connection: Connection) -> bool:
    """Tell whether no table holds a row, or there is no table yet; heartbeats do not count."""
    there = set(inspect(connection).get_table_names())
    names = [found.name for found in _tables() if found.name in there]
    return not any(connection.execute(select(text("1")).select_from(table(name)).limit(1)).first() for name in names)


def has_heartbeats(connection: Connection) -> bool:
    """Tell whether there is a table of workers, as in every ledger of this release or an older one."""
    return inspect(connection).has_table("workers")


def drop(connection: Connection) -> None:
    """Drop the ledger's own tables, and what its triggers call."""
    there = set(inspect(connection).get_table_names())
    for name in [*(found.name for found in reversed(metadata.sorted_tables)), "alembic_version"]:
        if name in there:
            connection.execute(text(f"DROP TABLE {name}"))
    if connection.dialect.name == "postgresql":
        for name in ("groups", "images", "labels"):
            connection.execute(text(f"DROP FUNCTION IF EXISTS refuse_{name}()"))


def number_on(connection: Connection) -> None:
    """Let PostgreSQL number new rows from where the restored ones end; SQLite does so by itself."""
    if connection.dialect.name != "postgresql":
        return
    # An older schema lacks some.
    there = set(inspect(connection).get_table_names())
    for found in (one for one in _tables() if one.name in there):
        key = found.primary_key.columns.values()[0]
        sequence = connection.execute(
            text("SELECT pg_get_serial_sequence(:name, :key)"), {"name": found.name, "key": key.name}
        ).scalar()
        if sequence is not None:
            last = connection.execute(select(func.max(key))).scalar()
            if last is not None:
                connection.execute(text("SELECT setval(:sequence, :last)"), {"sequence": sequence, "last": last})


def _tables() -> list[Table]:
    return [found for found in metadata.sorted_tables if found.name not in LEFT_OUT]


def _kind(of: TypeEngine[Any]) -> str:
    return next((kind for kind, known in KINDS.items() if isinstance(of, known)), PLAIN)


def _each(spell: Sequence[Callable[[Any], Any] | None], row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(value if how is None or value is None else how(value) for how, value in zip(spell, row, strict=True))
