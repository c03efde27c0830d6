"""Windows of what a serving version says: compared with its test images, recorded once, and nothing but asked for."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import bells, leases, ledger, registry, session, windows
from db.outcomes import Outcome
from db.shards import Item
from tests.worker.schools import MODEL, QUICK, School, open_school
from worker.learning import drifting, scores

CLASSES = ("cat", "dog", "hen")


@pytest.fixture
def school(tmp_path: Path, sessions: sessionmaker[Session]) -> Iterator[School]:
    """A version that serves and was trained here; its scores on many test images are known."""
    with open_school(tmp_path / "mill", sessions, playbook=QUICK + "[drift]\nnum_items = 100\n") as opened:
        opened.teach(CLASSES, 30)
        opened.learn(strategy="head")
        version = opened.version(f"{MODEL}:1")
        folder = Path(scores._folder(opened.settings.store, version.sha256).removeprefix("file://"))
        (folder / scores.FILE).unlink()
        folder.rmdir()
        scores.keep(opened.settings.store, version.sha256, _probabilities([1 / 3] * 3, 600, seed=0))
        yield opened


def _probabilities(shares: list[float], num: int, *, seed: int) -> np.ndarray:
    """Give confident scores of `num` images whose classes come in these shares."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, size=num, p=shares)
    return rng.dirichlet(np.ones(3), size=num) * 0.3 + 0.7 * np.eye(3)[truth]


def say(school: School, shares: list[float], num: int, *, seed: int) -> None:
    """Record a job whose images come in these shares."""
    said = _probabilities(shares, num, seed=seed)
    items = [Item(position=row, key=None, reference=f"file:///{row}.png") for row in range(num)]
    with session.transaction(school.sessions) as transaction:
        version = registry.version(transaction, f"{MODEL}:1")
        job = ledger.NewJob(
            id=uuid.uuid4(), model=MODEL, version_id=version.id, priority="bulk", idempotency_key=None, top_k=3,
            num_items=num, deadline_s=None, caller=None,
        )  # fmt: skip
        ledger.receive(transaction, job, items, first_position=0, digest="", shard_size=num)
        [bell] = bells.unrung(transaction, older_than_s=0.0, limit=5)
        claim = leases.claim(transaction, bell.shard_id, owner="ada", lease_s=60.0)
        outcomes = []
        for row, item in enumerate(items):
            order = np.argsort(-said[row])
            top_k = tuple((CLASSES[column], float(said[row, column])) for column in order)
            outcomes.append(
                Outcome(
                    position=item.position, key=None, reference=item.reference, label=top_k[0][0], score=top_k[0][1],
                    top_k=top_k, version_id=version.id,
                )
            )  # fmt: skip
        leases.finish(transaction, claim, outcomes)


def look(school: School) -> str:
    return drifting.look(school.sessions, school.settings, MODEL)


def recorded(school: School) -> list[windows.Window]:
    with session.reading(school.sessions) as reading:
        return windows.recent(reading, MODEL, limit=10)


def test_too_few_outcomes_make_no_window(school: School) -> None:
    say(school, [1 / 3] * 3, 60, seed=1)
    assert look(school) == "60 of 100 new outcomes"
    assert recorded(school) == []


def test_more_of_the_same_gives_no_alarm_and_other_shares_do(school: School) -> None:
    say(school, [1 / 3] * 3, 100, seed=2)
    assert look(school).startswith("no alarm")
    say(school, [0.8, 0.1, 0.1], 100, seed=3)
    assert look(school).startswith("alarm")
    assert [window.is_alarm for window in recorded(school)] == [True, False]


def test_an_outcome_is_in_one_window_alone(school: School) -> None:
    say(school, [1 / 3] * 3, 100, seed=4)
    look(school)
    assert look(school) == "0 of 100 new outcomes"
    assert len(recorded(school)) == 1


def test_drift_changes_no_champion(school: School) -> None:
    for seed in (5, 6):
        say(school, [0.9, 0.05, 0.05], 100, seed=seed)
        assert look(school).startswith("alarm")
    assert school.serving() == f"{MODEL}:1"
