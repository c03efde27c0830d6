"""A version is loaded once, kept while needed, and truly let go."""

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from db import registry
from pipeline import checkpoints
from pipeline.errors import CheckpointBroken, StoreUnreachable
from pipeline.serving.classifier import Classifier
from tests.worker import builders
from worker.warm import Warm


@pytest.fixture
def versions(saved: tuple[checkpoints.Saved, ...]) -> list[registry.Version]:
    """Three versions, as the registry would give them; the third has the weights of the first."""
    one = registry.Version(
        id=1,
        model="cats",
        number=1,
        arch="",
        num_classes=3,
        reference=saved[0].reference,
        sha256=saved[0].sha256,
        source="import",
        parent_id=None,
        metrics={},
        num_parameters=0,
        created_at_s=0.0,
    )
    two = replace(one, id=2, number=2, reference=saved[1].reference, sha256=saved[1].sha256)
    return [one, two, replace(one, id=3, number=3)]


class Loads:
    """Loads for real, and remembers what."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, version: registry.Version) -> Classifier:
        self.names.append(version.name)
        return builders.load(version)


def test_a_version_is_loaded_once(versions: list[registry.Version]) -> None:
    load = Loads()
    warm = Warm(load, most=2)
    assert warm.get(versions[0]) is warm.get(versions[0])
    assert warm.get(versions[1]) is not warm.get(versions[0])
    assert load.names == ["cats:1", "cats:2"]


def test_two_threads_that_want_a_version_load_it_once(versions: list[registry.Version]) -> None:
    load, meet = Loads(), threading.Barrier(4, timeout=10)
    warm = Warm(load, most=2)

    def want() -> None:
        meet.wait()
        warm.get(versions[0])

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert load.names == ["cats:1"]


def test_the_least_recently_used_goes_first(versions: list[registry.Version]) -> None:
    warm = Warm(Loads(), most=2)
    for number in (0, 1, 0, 2):
        warm.get(versions[number])
    assert warm.names() == ("cats:1", "cats:3")
    assert [warm.has(version.id) for version in versions] == [True, False, True]


def test_what_nobody_needs_is_released_from_memory(versions: list[registry.Version]) -> None:
    warm = Warm(Loads(), most=2)
    networks = [weakref.ref(warm.get(version).network) for version in versions[:2]]
    with no_collector():
        warm.retain({versions[1].id})
        assert networks[0]() is None, "without the collector's help"
        assert networks[1]() is not None
    assert warm.names() == ("cats:2",)


def test_what_makes_room_is_released_from_memory(versions: list[registry.Version]) -> None:
    warm = Warm(Loads(), most=1)
    network = weakref.ref(warm.get(versions[0]).network)
    with no_collector():
        warm.get(versions[1])
        assert network() is None


def test_whoever_holds_a_classifier_goes_on_with_it(versions: list[registry.Version]) -> None:
    warm = Warm(Loads(), most=1)
    mine = warm.get(versions[0])
    warm.retain(())
    assert mine.network is not None
    assert warm.names() == ()


def test_a_load_that_fails_leaves_what_is_warm(versions: list[registry.Version]) -> None:
    warm = Warm(Loads(), most=1)
    old = warm.get(versions[0])
    with pytest.raises(CheckpointBroken):
        warm.get(replace(versions[1], sha256="0" * 64))
    assert warm.get(versions[0]) is old


def test_a_checkpoint_found_broken_is_not_read_again_at_once(versions: list[registry.Version]) -> None:
    load = Loads()
    warm, broken = Warm(load, most=1), replace(versions[1], sha256="0" * 64)
    for _ in range(3):
        with pytest.raises(CheckpointBroken):
            warm.get(broken)
    assert load.names == ["cats:2"]
    assert [why.startswith("cats:2 cannot be loaded: ") for why in warm.troubles()] == [True]
    warm.forget_troubles({1})
    assert warm.troubles() == ()


def test_a_store_that_is_away_is_asked_again_each_time(versions: list[registry.Version]) -> None:
    asked: list[str] = []

    def away(version: registry.Version) -> Classifier:
        asked.append(version.name)
        raise StoreUnreachable("The store is away.")

    warm = Warm(away, most=1)
    for _ in range(2):
        with pytest.raises(StoreUnreachable):
            warm.get(versions[0])
    assert asked == ["cats:1", "cats:1"]
    assert warm.troubles() == ("cats:1 cannot be loaded yet: The store is away.",)


@contextmanager
def no_collector() -> Iterator[None]:
    """Leave memory to reference counts alone."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
