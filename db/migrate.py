"""Migrations, driven from code: there is no ini file.

Takes a database URL, or a session factory. Gives the newest schema, or says which way it differs.
Knows nothing of what the tables are for.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.orm import Session, sessionmaker

from db import errors
from db import session as database

_SCRIPTS = Path(__file__).with_name("migrations")


def upgrade(url: str) -> None:
    """Bring a database to `head()`; safe to run at once from several processes; raises LedgerUnreachable."""
    with database.connected(url) as sessions:
        engine = database.engine_of(sessions)
        with database.reaching(engine), engine.begin() as connection:
            upgrade_within(connection, "head")


def upgrade_within(connection: Connection, revision: str) -> None:
    """Bring a database to a revision inside a transaction that is open."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def knows(revision: str) -> bool:
    """Tell whether a revision is this release's or an older one's."""
    return revision in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def check(sessions: sessionmaker[Session]) -> None:
    """Raise SchemaOld, SchemaNew or LedgerUnreachable unless the database is at `head()`."""
    with database.reading(sessions) as session:
        current = MigrationContext.configure(session.connection()).get_current_revision()
    if current == head():
        return
    if current is None:
        raise errors.SchemaOld("There is no ledger here yet: `imagemill up` makes one, or `imagemill db upgrade`.")
    raise errors.SchemaOld if knows(current) else errors.SchemaNew


def head() -> str:
    """Name the newest revision of this release."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None  # noqa: S101 - for the type checker
    return newest


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
