"""What alembic runs around the migrations.

Takes the connection that `migrate.upgrade` opened. Gives one transaction with one migrator in it.
Knows nothing of the migrations themselves.
"""

from alembic import context
from sqlalchemy import Connection, text

from db import models

#: any constant that nobody else locks in this database
LOCK = 4_961_726_701
#: seconds to wait for another migrator
TURN_S = 120
#: seconds a migration may wait for a table: workers queue up behind it all that time
LOCK_S = 3
#: seconds one statement of a migration may take
STATEMENT_S = 600


def take_turn(connection: Connection) -> None:
    """Wait until no other migrator runs; on SQLite the transaction has seen to that already."""
    if connection.dialect.name != "postgresql":
        return
    connection.execute(text(f"SET LOCAL lock_timeout = '{TURN_S}s'"))
    connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_S}s'"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_S}s'"))


def run(connection: Connection) -> None:
    """Run the pending migrations in the transaction that is open."""
    take_turn(connection)
    context.configure(connection=connection, target_metadata=models.metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
