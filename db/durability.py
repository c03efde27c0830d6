"""What a database promises of a commit.

Takes a session. Gives the settings that decide whether an acknowledged commit survives a power cut.
Knows nothing of what is committed.
"""

from sqlalchemy import text
from sqlalchemy.orm import Session

#: setting -> values under which a commit is on disk when it is acknowledged
POSTGRESQL = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
}
SQLITE = {"journal_mode": ("wal",), "synchronous": ("2", "3")}


def lacking(session: Session) -> dict[str, str]:
    """Give the settings that let an acknowledged commit be lost, with their values; none where all is well."""
    if session.get_bind().dialect.name == "sqlite":
        asked, wanted = "PRAGMA {}", SQLITE
    else:
        asked, wanted = "SHOW {}", POSTGRESQL
    told = {name: str(session.execute(text(asked.format(name))).scalar_one()) for name in wanted}
    return {name: value for name, value in told.items() if value not in wanted[name]}
