"""Fixtures of the joins: two real checkpoints, a decode pool, and a folder of images."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from sqlalchemy.orm import Session, sessionmaker

from db import registry
from pipeline import checkpoints
from tests import builders
from tests.worker import builders as joins


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
