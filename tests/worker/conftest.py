"""Fixtures of the joins: two real checkpoints, a decode pool, and a folder of images."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from sqlalchemy.orm import Session, sessionmaker

from db import registry, session
from pipeline import checkpoints
from tests import builders
from tests.worker import builders as joins
from tests.worker.machine import AWAY, Machine


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Many threads on a tiny network only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[checkpoints.Saved, checkpoints.Saved]:
    """Two tiny checkpoints with other weights; never changed."""
    store = tmp_path_factory.mktemp("store")
    return builders.tiny_checkpoint(store, seed=1), builders.tiny_checkpoint(store, seed=2)


@pytest.fixture
def version(sessions: sessionmaker[Session], saved: tuple[checkpoints.Saved, ...]) -> registry.Version:
    """The version that serves."""
    return joins.version(sessions, saved[0], serves=True)


@pytest.fixture(scope="session")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads that fetch and decode."""
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The folder that references may lie under."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


@pytest.fixture
def job(sessions: sessionmaker[Session], tmp_path: Path, version: registry.Version) -> Callable[..., uuid.UUID]:
    """Submit a job; its shards wait. `version` serves."""
    return partial(joins.submit, joins.desk(sessions, tmp_path))


@pytest.fixture
def machine(
    tmp_path: Path,
    sqlite_template: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Machine]:
    """A home folder with a migrated ledger, and the command line in it; nothing else runs."""
    home = tmp_path / "mill"
    home.mkdir()
    shutil.copyfile(sqlite_template, home / "ledger.sqlite")
    monkeypatch.setenv("IMAGEMILL_HOME", str(home))
    monkeypatch.setenv("IMAGEMILL_BROKER_URL", AWAY)
    sessions = session.connect(f"sqlite:///{home / 'ledger.sqlite'}")
    yield Machine(home=home, capture=capsys, sessions=sessions)
    session.engine_of(sessions).dispose()
