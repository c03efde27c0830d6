"""Workers follow the serving pointer: what is new loads beside what serves, what nobody needs goes."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import registry
from pipeline import checkpoints
from pipeline.serving.classifier import Classifier
from tests.worker import builders
from worker.swap import Swap
from worker.warm import Warm

Sessions = sessionmaker[Session]
#: seconds a load of a tiny network may take here
PATIENCE_S = 20.0


def await_until(fact: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


def following(sessions: Sessions, load: Callable[[registry.Version], Classifier] = builders.load) -> tuple[Warm, Swap]:
    warm = Warm(load, most=2)
    swap = Swap(warm, sessions, [builders.MODEL, "dogs"])
    swap.load_serving()
    return warm, swap


def test_what_serves_is_loaded_before_the_first_task(sessions: Sessions, version: registry.Version) -> None:
    warm, swap = following(sessions)
    assert (warm.names(), swap.trouble) == (("cats:1",), None)


def test_a_child_without_any_version_starts_all_the_same(sessions: Sessions) -> None:
    warm, swap = following(sessions)
    swap.follow()
    assert (warm.names(), swap.trouble) == ((), None)


def test_a_promoted_version_loads_in_the_background_and_the_old_one_goes_on(
    sessions: Sessions, version: registry.Version, saved: tuple[checkpoints.Saved, ...]
) -> None:
    gate, loading = threading.Event(), threading.Event()

    def slow(wanted: registry.Version) -> Classifier:
        if wanted.number == 2:
            loading.set()
            assert gate.wait(PATIENCE_S)
        return builders.load(wanted)

    warm, swap = following(sessions, slow)
    old = warm.get(version)
    new = builders.version(sessions, saved[1], serves=True)
    swap.follow()
    assert loading.wait(PATIENCE_S)
    swap.follow()
    assert warm.get(version) is old, "given at once, while the new one loads"
    assert warm.names() == ("cats:1",)
    gate.set()
    await_until(lambda: warm.has(new.id))
    swap.follow()
    assert warm.names() == ("cats:2",)


def test_versions_that_open_jobs_are_pinned_to_stay(
    sessions: Sessions, version: registry.Version, saved: tuple[checkpoints.Saved, ...], tmp_path: Path
) -> None:
    warm, swap = following(sessions)
    builders.submit(builders.desk(sessions, tmp_path), version="cats:1")
    new = builders.version(sessions, saved[1], serves=True)
    swap.follow()
    await_until(lambda: warm.has(new.id))
    swap.follow()
    assert warm.names() == ("cats:1", "cats:2")


@pytest.fixture
def broken(saved: tuple[checkpoints.Saved, ...]) -> checkpoints.Saved:
    """A checkpoint that is not what the registry says of it."""
    return replace(saved[1], sha256="0" * 64)


def test_a_version_that_does_not_load_leaves_the_old_one_and_is_reported(
    sessions: Sessions, version: registry.Version, broken: checkpoints.Saved
) -> None:
    warm, swap = following(sessions)
    builders.version(sessions, broken, serves=True)
    swap.follow()
    await_until(lambda: swap.trouble is not None)
    swap.follow()
    assert swap.trouble.startswith("cats:2 cannot be loaded: card.json of file://")
    assert warm.names() == ("cats:1",)


def test_trouble_ends_when_the_pointer_goes_back(
    sessions: Sessions, version: registry.Version, broken: checkpoints.Saved
) -> None:
    builders.version(sessions, broken, serves=True)
    warm, swap = following(sessions)
    assert (warm.names(), swap.trouble is None) == ((), False)
    builders.promote(sessions, version)
    swap.follow()
    await_until(lambda: warm.has(version.id))
    assert swap.trouble is None
