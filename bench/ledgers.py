"""Takes a name: sqlite or postgresql. Gives a ledger of its own on it, migrated, with one version registered.

Knows nothing of what is measured. The PostgreSQL server is the tests' one, without fsync; SQLite is as in production.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db import migrate, registry, session
from tests import servers

DATABASES = ("sqlite", "postgresql")
#: Name of the benchmarks' model.
MODEL = "million"


@contextmanager
def running(database: str) -> Iterator[str]:
    """Run a database for as long as it is needed; gives the URL of its ledger."""
    with tempfile.TemporaryDirectory(prefix="im-bench-") as folder:
        if database == "sqlite":
            yield _made(f"sqlite:///{folder}/ledger.sqlite")
        else:
            with servers.postgres() as server:
                server.execute("CREATE DATABASE ledger")
                yield _made(server.url("ledger"))


def size_bytes(sessions: sessionmaker[Session]) -> int:
    """Measure the database on disk: its file once the log is written back, or all that its server keeps of it."""
    engine = session.engine_of(sessions)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(str(engine.url.database)).stat().st_size
    with engine.connect() as connection:
        return connection.scalar(text("SELECT pg_database_size(current_database())"))


def analyse(sessions: sessionmaker[Session]) -> None:
    """Let the planner know what a database that has run for a while would have told it."""
    with session.engine_of(sessions).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def _made(url: str) -> str:
    migrate.upgrade(url)
    version = registry.NewVersion(
        model=MODEL, arch="tiny", num_classes=10, reference="file:///nowhere", sha256="0" * 64, source="demo",
        parent_id=None, metrics={}, num_parameters=1,
    )  # fmt: skip
    with session.connected(url) as sessions, session.transaction(sessions) as transaction:
        registered = registry.register(transaction, version)
        registry.promote(transaction, MODEL, registered.id, seen_epoch=0, who="bench", reason="")
    return url
