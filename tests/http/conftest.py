"""A real HTTP server on loopback, over a real ledger and a real Redis: no worker runs unless a test starts one."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy.orm import Session, sessionmaker

from db import keys, migrate, registry, session
from tests.db import builders as rows
from tests.http.calls import Calls
from worker.settings import Settings
from worker.stack import Stack
from worker.web import server

#: Seconds in which the server must listen.
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that runs, and the ledger behind it."""

    port: int
    app: FastAPI
    settings: Settings
    sessions: sessionmaker[Session]

    def key(self, *scopes: keys.Scope, name: str = "shop", expires_in_s: float | None = None) -> str:
        """Make a key."""
        secret = keys.draw()
        with session.transaction(self.sessions) as transaction:
            keys.add(transaction, secret, name=name, scopes=scopes, expires_in_s=expires_in_s)
        return secret

    def calls(self, *scopes: keys.Scope, name: str = "shop") -> Calls:
        """Call with a key that is for this."""
        return Calls(port=self.port, key=self.key(*scopes, name=name) if scopes else "")


@pytest.fixture
def served(database_url: str, home: Path, redis_url: str) -> Iterator[Served]:
    """The server of this test alone."""
    settings = Settings(home=home, broker_url=redis_url, database_url=database_url).resolved()
    with serve(settings) as served:
        yield served


@pytest.fixture
def version(served: Served) -> registry.Version:
    """The version `cats:1`, which serves."""
    return make_version(served)


def make_version(served: Served) -> registry.Version:
    """Let `cats:1` serve, which nobody here loads."""
    with session.transaction(served.sessions) as transaction:
        made = registry.register(transaction, rows.new_version(num_classes=2))
        registry.promote(transaction, "cats", made.id, seen_epoch=0, who="ada", reason="")
    return made


@pytest.fixture
def calls(served: Served, version: registry.Version) -> Calls:
    """A caller, `shop`, that may submit."""
    return served.calls("submit")


@pytest.fixture(scope="session")
def mill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a ledger, a Redis and an intake worker, and the model `tiny`; nobody classifies or learns."""
    from tests import mills  # it imports torch, which few of these tests need

    home = tmp_path_factory.mktemp("im")
    settings = mills.tiny_settings(home)
    with Stack(settings=settings) as stack:
        stack.start_redis()
        migrate.upgrade(settings.database_url)
        stack.start("intake", "worker", "intake")
        with serve(settings) as served:
            for seed in (1, 2):
                mills.make_version(served.sessions, settings, "tiny", seed=seed)
            yield served


@contextmanager
def serve(settings: Settings) -> Iterator[Served]:
    """Run the server in a thread until the test is over."""
    sessions = session.connect(settings.database_url)
    listening = socket.create_server(("127.0.0.1", 0))
    app = server.build(settings)
    running = uvicorn.Server(server.config(app))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        give_up_s = time.monotonic() + PATIENCE_S
        while not running.started:
            assert thread.is_alive()
            assert time.monotonic() < give_up_s
            time.sleep(0.01)
        yield Served(port=listening.getsockname()[1], app=app, settings=settings, sessions=sessions)
    finally:
        running.should_exit = True
        thread.join(PATIENCE_S)
        session.engine_of(sessions).dispose()
        listening.close()
    assert not thread.is_alive()
