"""Takes the ledger's address. Gives whether its schema is ours and its commits last.

Knows nothing of what is in it.
"""

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, sessionmaker

from db import durability, errors, migrate, session
from worker.doctor.findings import Finding, away, ok, unsafe, warning

#: file systems of another machine, on which SQLite's shared memory does not work
REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs", "ceph", "glusterfs")
MOUNTS = Path("/proc/mounts")


def schema(sessions: sessionmaker[Session]) -> Finding:
    """Compare the schema with this code's."""
    subject = "schema"
    try:
        migrate.check(sessions)
    except errors.LedgerUnreachable as gone:
        return away("ledger", str(gone), mend="start the database, or mend IMAGEMILL_DATABASE_URL")
    except errors.SchemaOld as old:
        return unsafe(subject, str(old), why="no worker starts on it", mend="imagemill db upgrade")
    except errors.SchemaNew as new:
        return unsafe(
            subject,
            str(new),
            why="this code does not know what the newer one wrote",
            mend="run the release that the ledger belongs to",
        )
    return ok(subject, f"The ledger's schema is at revision {migrate.head()}.")


def commits(sessions: sessionmaker[Session]) -> Iterator[Finding]:
    """Look at whether what is acknowledged survives a power cut."""
    with session.reading(sessions) as reading:
        lacking = durability.lacking(reading)
    if lacking:
        told = ", ".join(f"{name} = {value}" for name, value in lacking.items())
        yield unsafe(
            "ledger commits",
            f"The ledger acknowledges what it may lose: {told}.",
            why="after a power cut jobs that were accepted are gone, or the whole ledger is",
            mend="turn them on in postgresql.conf",
        )
    else:
        yield ok("ledger commits", "An acknowledged commit is on disk.")


def place(database_url: str, mounts: Path = MOUNTS) -> Iterator[Finding]:
    """Look at where a SQLite file lies: its readers and writers share memory, which no network file system does."""
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return
    kind = _file_system(Path(url.database).resolve(), mounts)
    if kind in REMOTE:
        yield unsafe(
            "ledger place",
            f"The ledger's SQLite file lies on a network file system ({kind}).",
            why="its lock and its shared memory do not work there: the file breaks when two hosts write",
            mend="move it to a local disk, or use PostgreSQL",
        )
    else:
        yield _shared(Path(url.database))


def _shared(file: Path) -> Finding:
    if file.exists() and file.stat().st_mode & 0o022:
        return warning(
            "ledger place",
            f"Other users of this machine may write to {file}.",
            why="the ledger is the truth: whoever writes to it decides what serves",
            mend=f"chmod go-w {file}",
        )
    return ok("ledger place", "The ledger's file lies on a local disk.")


def _file_system(file: Path, mounts: Path) -> str:
    """Name the kind of file system that a file lies on; empty where the system does not tell."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    over = [(mount, kind) for _, mount, kind, *_ in lines if file.is_relative_to(mount.replace("\\040", " "))]
    return max(over, key=lambda one: len(one[0]), default=("", ""))[1]
