"""A shard is what a worker does in a second, and a small job still gives each worker its part."""

from dataclasses import replace

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import session, workers
from worker import heartbeat, sizing

ADA = replace(heartbeat.row("classify", models=("cats",)), name="ada")


def size(
    sessions: sessionmaker[Session],
    *paces: float | None,
    setting: int = 0,
    num_items: int = 10_000,
    model: str = "cats",
) -> int:
    with session.transaction(sessions) as transaction:
        for number, pace in enumerate(paces):
            told = None if pace is None else {"cats": pace}
            workers.beat(transaction, replace(ADA, name=f"worker {number}", images_per_s=told))
        return sizing.shard_size(transaction, setting, model, num_items)


@pytest.mark.parametrize(
    ("paces", "num_items", "expected"),
    [
        ((300.4,), 10_000, 300),
        ((300.0, 100.0), 10_000, 200),
        ((300.0, None), 10_000, 300),
        ((300.0, 300.0, 300.0), 100, 34),
        ((2.0,), 10_000, sizing.FEWEST),
        ((90_000.0,), 10_000, sizing.MOST),
        ((300.0,), 3, sizing.FEWEST),
        ((None,), 10_000, sizing.UNKNOWN),
        ((), 10_000, sizing.UNKNOWN),
    ],
)
def test_a_shard_is_what_a_worker_does_in_a_second(
    sessions: sessionmaker[Session], paces: tuple[float | None, ...], num_items: int, expected: int
) -> None:
    assert size(sessions, *paces, num_items=num_items) == expected


def test_what_is_set_holds(sessions: sessionmaker[Session]) -> None:
    assert size(sessions, 300.0, setting=7) == 7


def test_another_models_pace_says_nothing(sessions: sessionmaker[Session]) -> None:
    assert size(sessions, 300.0, model="dogs") == sizing.UNKNOWN
