"""Connections, transactions and the database's clock.

Takes a database URL. Gives a session factory, two kinds of transaction and `now_s()`.
Knows nothing of tables.
"""

import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg
from sqlalchemy import ARRAY, ColumnElement, Connection, Double, Engine, any_, create_engine, event, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, QueryableAttribute, Session, sessionmaker
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from db import errors

#: seconds a SQLite writer waits for another one
BUSY_TIMEOUT_S = 30
#: seconds after which an idle PostgreSQL connection is replaced
RECYCLE_S = 1800
#: how a driver names a database that is away rather than a statement that is wrong
_AWAY_SQLITE = (
    "SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_NOTADB", "SQLITE_CORRUPT",
)  # fmt: skip
_AWAY_SQLSTATES = ("08", "53", "57P")
#: marks a connection whose transaction will not write
_READS = {"imagemill_reads": True, "postgresql_readonly": True}
#: entities are read as plain rows here: always fresh, and never kept in step with a bulk statement
_UNTRACKED = {"populate_existing": True, "synchronize_session": False}

Value = TypeVar("Value")

_POSTGRESQL: dict[str, Any] = {
    "pool_pre_ping": True,
    "pool_recycle": RECYCLE_S,
    "isolation_level": "READ COMMITTED",
    "connect_args": {
        "application_name": "imagemill",
        "connect_timeout": 10,
        # A dead host is noticed within a minute, not after two hours.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    },
}
_SQLITE: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_S}}


class _Now(FunctionElement[float]):
    type = Double()
    inherit_cache = True


@compiles(_Now, "postgresql")
def _now_postgresql(_element: _Now, _compiler: SQLCompiler, **_: object) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(_Now, "sqlite")
def _now_sqlite(_element: _Now, _compiler: SQLCompiler, **_: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


def now_s() -> ColumnElement[float]:
    """Read the database's clock, in epoch seconds, as an expression inside a statement."""
    return _Now()


def clock(session: Session) -> float:
    """Read the database's clock now, in epoch seconds."""
    return session.execute(select(now_s())).scalar_one()


def connect(url: str) -> sessionmaker[Session]:
    """Make a session factory for `sqlite:///file` or `postgresql+psycopg://...`; dials on first use.

    Raises LedgerUnreachable for a URL that cannot be read.
    """
    options = _SQLITE if url.startswith("sqlite") else _POSTGRESQL
    compact = partial(json.dumps, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        # Rows hold references, which may be signed: they are in no log and in no error.
        engine = create_engine(url, json_serializer=compact, hide_parameters=True, **options)
    except (ArgumentError, ValueError):  # without the URL, which holds a password
        raise errors.LedgerUnreachable(
            "The ledger's URL cannot be read: give sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME."
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _open_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return sessionmaker(engine, expire_on_commit=False, execution_options=_UNTRACKED)


@contextmanager
def connected(url: str) -> Iterator[sessionmaker[Session]]:
    """Connect, as `connect` does, for as long as it is needed."""
    sessions = connect(url)
    try:
        yield sessions
    finally:
        engine_of(sessions).dispose()


def engine_of(sessions: sessionmaker[Session]) -> Engine:
    """Give the engine a session factory draws its connections from."""
    engine = sessions.kw["bind"]
    assert isinstance(engine, Engine)  # noqa: S101 - for the type checker
    return engine


@contextmanager
def transaction(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """Begin, then commit, or roll back on an exception; raises LedgerUnreachable."""
    with reaching(engine_of(sessions)), sessions.begin() as session:
        yield session


@contextmanager
def reading(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """Begin a transaction that only reads: on SQLite it neither takes nor awaits the write lock."""
    with reaching(engine_of(sessions)), sessions.begin() as session:
        session.connection(execution_options=_READS)
        yield session


@contextmanager
def reaching(engine: Engine) -> Iterator[None]:
    """Turn a driver's connection failure into LedgerUnreachable, without the password."""
    try:
        yield
    except DBAPIError as error:
        if not _is_away(error):
            raise
        where = f"{engine.url.host or ''}/{engine.url.database or ''}".removeprefix("/")
        raise errors.LedgerUnreachable(f"Cannot reach the ledger at {where}: {_reason(error)}.") from error


def _reason(error: DBAPIError) -> str:
    if getattr(error.orig, "sqlite_errorname", "") == "SQLITE_CANTOPEN":
        return "there is none yet (`imagemill up` makes one), or its folder is closed to us"
    return str(error.orig).strip().partition("\n")[0].rstrip(".")


def insert(session: Session, table: type[DeclarativeBase]) -> postgresql.Insert | sqlite.Insert:
    """Start an INSERT that knows ON CONFLICT in this session's dialect."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def insert_rows(
    session: Session, table: type[DeclarativeBase], columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Insert many rows by the quickest way there is, past all that SQLAlchemy does for each value.

    Values are as the driver takes them: JSON as text, UUIDs as `spelled`, and no defaults.
    """
    copy_rows(session.connection(), table.__tablename__, columns, rows)


def copy_rows(connection: Connection, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Insert many rows into a table by its name, as `insert_rows` does."""
    if not rows:
        return
    listed = ", ".join(columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        connection.exec_driver_sql(f"INSERT INTO {name} ({listed}) VALUES ({marks})", rows)  # noqa: S608 - our names
    else:
        _copy(connection, f"COPY {name} ({listed}) FROM STDIN", rows)


def spelled(session: Session, identifier: uuid.UUID) -> str:
    """Give a UUID as this session's database keeps it."""
    return identifier.hex if session.get_bind().dialect.name == "sqlite" else str(identifier)


def among(session: Session, column: QueryableAttribute[Value], values: Iterable[Value]) -> ColumnElement[bool]:
    """Hold where a column is one of many values, given to PostgreSQL as one parameter.

    Given hundreds, it soon prefers a plan for any values at all, which reads the table from end to end.
    """
    many = list(dict.fromkeys(values))
    if session.get_bind().dialect.name == "sqlite":
        return column.in_(many)
    return column == any_(literal(many, ARRAY(column.type)))


def _copy(connection: Connection, statement: str, rows: Iterable[Sequence[object]]) -> None:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 - for the type checker
    try:
        with driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as wrong:
        # As SQLAlchemy itself raises what a driver does, for whoever tells a lost connection from a wrong row.
        raise DBAPIError.instance(statement, None, wrong, psycopg.Error, dialect=connection.dialect) from wrong


def _is_away(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.DatabaseError):
        return error.orig.sqlite_errorname.startswith(_AWAY_SQLITE)
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    # A connection that was refused has no state at all.
    return isinstance(error, OperationalError) and (sqlstate is None or sqlstate.startswith(_AWAY_SQLSTATES))


def _open_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # The driver must not begin transactions itself: a DEFERRED one fails at its first write, timeout or not.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("imagemill_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
