"""A promoted version under watch: it passes, or it is taken back by itself."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import bells, jobs, leases, ledger, live_checks, registry, session, workers
from db.outcomes import ItemFailure, Outcome
from db.shards import Item
from tests.worker.schools import MODEL, QUICK, School, open_school
from worker import heartbeat, live
from worker.live import Seen
from worker.playbook import LivePolicy

POLICY = LivePolicy(min_items=20, num_replayed=20)
FINE = Seen(
    num=100, num_before=100, error_rate=0.0, error_rate_before=0.0, abstention_rate=0.1, abstention_rate_before=0.1,
    num_compared=20, disagreement=0.1, is_replayed=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "age_s", "state", "why"),
    [
        ({}, 10.0, "passed", "no cause for alarm"),
        ({"num": 5}, 10.0, None, ""),
        ({"is_replayed": False}, 10.0, None, ""),
        ({"num": 0, "num_compared": 0, "is_replayed": False}, 1e9, "passed", "0 items"),
        ({"error_rate": 0.1}, 10.0, "rolled_back", "10.0% of its items fail"),
        ({"error_rate": 0.1, "error_rate_before": 0.09}, 10.0, "passed", ""),
        ({"error_rate": 0.1, "num": 5}, 10.0, None, ""),
        ({"abstention_rate": 0.5}, 10.0, "rolled_back", "abstains from 50.0%"),
        ({"abstention_rate": 0.5, "abstention_rate_before": None}, 10.0, "passed", ""),
        ({"disagreement": 0.5}, 10.0, "rolled_back", "disagrees with the version before on 50.0% of 20"),
        ({"disagreement": 0.5, "num": 0}, 10.0, "rolled_back", "disagrees"),
        ({"disagreement": 0.5, "num_compared": 3}, 10.0, "passed", ""),
    ],
    ids=str,
)
def test_the_verdict_follows_what_was_seen(seen: dict[str, object], age_s: float, state: str | None, why: str) -> None:
    found, reason = live.verdict(POLICY, replace(FINE, **seen), age_s=age_s)
    assert found == state
    assert why in reason


@pytest.fixture
def school(tmp_path: Path, sessions: sessionmaker[Session]) -> Iterator[School]:
    """Two versions with the same classes; the second was promoted and is under watch."""
    playbook = QUICK + "[live]\nmin_items = 10\nnum_replayed = 10\n"
    with open_school(tmp_path / "mill", sessions, playbook=playbook) as opened:
        old, new = (opened.make_base(), opened.make_base())
        with session.transaction(sessions) as transaction:
            registry.promote(transaction, "base", old.id, seen_epoch=0, who="ada", reason="")
            _record(transaction, old, [_said("cat", number) for number in range(10)])
            registry.promote(transaction, "base", new.id, seen_epoch=1, who="run 1", reason="")
            live_checks.begin(
                transaction,
                live_checks.NewCheck(model="base", promotion_epoch=2, version_id=new.id, previous_version_id=old.id),
            )
        yield opened


def _said(label: str, number: int) -> Outcome:
    return Outcome(position=number, key=None, reference=f"file:///{number}.png", label=label, score=0.9)


def _record(
    transaction: Session, version: registry.Version, said: Sequence[Outcome], job_id: uuid.UUID | None = None
) -> None:
    """Put a job with these outcomes into the ledger, or the outcomes of one that is there."""
    if job_id is None:
        job_id = uuid.uuid4()
        new = ledger.NewJob(
            id=job_id, model="base", version_id=version.id, priority="bulk", idempotency_key=None, top_k=1,
            num_items=len(said), deadline_s=None, caller=None,
        )  # fmt: skip
        items = [Item(position=one.position, key=one.key, reference=one.reference) for one in said]
        ledger.receive(transaction, new, items, first_position=0, digest="", shard_size=100)
    [bell] = bells.unrung(transaction, older_than_s=0.0, limit=10)
    claim = leases.claim(transaction, bell.shard_id, owner="ada", lease_s=60.0)
    leases.finish(
        transaction,
        claim,
        [
            replace(one, key=item.key, reference=item.reference, version_id=version.id)
            for one, item in zip(said, claim.items, strict=True)
        ],
    )


def tend(school: School) -> live_checks.LiveCheck:
    """Look at what is under watch, as a tick does."""
    live.tend(school.sessions, school.settings, lambda _: None)
    with session.reading(school.sessions) as reading:
        return live_checks.latest(reading, "base")


def version(school: School, number: int) -> registry.Version:
    return school.version(f"base:{number}")


@pytest.mark.parametrize("wrong", ['[recipe]\nstrategy = "guess"', "[live]\nmin_itens = 3", "[live"])
def test_a_playbook_that_makes_no_sense_lets_the_check_wait_and_ends_nothing(school: School, wrong: str) -> None:
    Path(school.settings.playbook).write_text(wrong)
    assert tend(school).state == "watching"


def test_what_the_old_version_labelled_last_is_classified_again_once(school: School) -> None:
    check = tend(school)
    assert tend(school).replay_job_id == check.replay_job_id
    with session.reading(school.sessions) as reading:
        job = jobs.job(reading, check.replay_job_id)
    assert (job.num_items, job.version, job.caller) == (10, "base:3", "live check")


def test_a_version_that_disagrees_too_often_is_rolled_back_by_itself(school: School) -> None:
    check = tend(school)
    with session.transaction(school.sessions) as transaction:
        labels = ["dog"] * 5 + ["cat"] * 5
        said = [_said(label, number) for number, label in enumerate(labels)]
        _record(transaction, version(school, 3), said, job_id=check.replay_job_id)
    ended = tend(school)
    assert (ended.state, school.serving("base")) == ("rolled_back", "base:2")
    assert "disagrees with the version before on 50.0% of 10" in ended.reason
    with session.reading(school.sessions) as reading:
        newest = registry.history(reading, "base")[-1]
    assert (newest.kind, newest.who, newest.reason) == ("rollback", "live check", ended.reason)


def test_a_version_whose_items_fail_in_the_model_is_rolled_back(school: School) -> None:
    tend(school)
    with session.transaction(school.sessions) as transaction:
        [bell] = bells.unrung(transaction, older_than_s=0.0, limit=10)
        leases.claim(transaction, bell.shard_id, owner="ada", lease_s=60.0)
        broken = ItemFailure(stage="forward", kind="forward_failed", message="no")
        said = [
            replace(_said("cat", number), label=None, score=None, error=broken) if number < 6 else _said("cat", number)
            for number in range(12)
        ]
        _record(transaction, version(school, 3), said)
    assert tend(school).state == "rolled_back"
    assert school.serving("base") == "base:2"


def beat(school: School, number: int, **facts: object) -> None:
    with session.transaction(school.sessions) as transaction:
        workers.beat(transaction, heartbeat.row("classify", name=f"worker {number}", models=("base",), **facts))


def test_a_version_that_no_worker_can_load_is_rolled_back_and_its_replay_is_given_up(school: School) -> None:
    beat(school, 1, message="base:3 cannot be loaded: weights.safetensors is not what its card says.")
    beat(school, 2, warm=("base:2",))
    ended = tend(school)
    assert (ended.state, school.serving("base")) == ("rolled_back", "base:2")
    assert "base:3 cannot be loaded" in ended.reason
    with session.reading(school.sessions) as reading:
        assert jobs.job(reading, ended.replay_job_id).state == "cancelled"


@pytest.mark.parametrize(
    ("warm", "message"),
    [
        (("base:3",), "base:3 cannot be loaded: no."),
        ((), "base:3 cannot be loaded yet: The store is away."),
        ((), "base:2 cannot be loaded: no."),
    ],
    ids=["one has it", "the store is away", "another version"],
)
def test_a_version_that_one_worker_has_or_may_have_soon_is_left_alone(
    school: School, warm: tuple[str, ...], message: str
) -> None:
    beat(school, 1, message=message)
    beat(school, 2, warm=warm)
    assert tend(school).state == "watching"


def test_a_version_that_agrees_passes_and_is_left_alone(school: School) -> None:
    check = tend(school)
    with session.transaction(school.sessions) as transaction:
        _record(
            transaction, version(school, 3), [_said("cat", number) for number in range(10)], job_id=check.replay_job_id
        )
        _record(transaction, version(school, 3), [_said("dog", number) for number in range(10)])
    assert tend(school).state == "passed"
    assert school.serving("base") == "base:3"


def test_a_promotion_by_hand_meanwhile_ends_the_watch_and_is_not_touched(school: School) -> None:
    with session.transaction(school.sessions) as transaction:
        registry.promote(transaction, "base", version(school, 2).id, seen_epoch=2, who="ada", reason="by hand")
    assert tend(school).state == "passed"
    assert school.serving("base") == "base:2"


def test_a_run_that_promotes_over_a_champion_puts_it_under_watch(
    tmp_path: Path, sessions: sessionmaker[Session]
) -> None:
    with open_school(tmp_path / "mill", sessions) as school:
        school.teach(("cat", "dog"), 30)
        school.learn(strategy="head")
        school.teach(("hen",), 30)
        run = school.learn(strategy="head")
        assert run.verdict == "promote"
        with session.reading(sessions) as reading:
            [check] = live_checks.watching(reading, MODEL)
    assert (check.version_id, check.promotion_epoch) == (run.version_id, 2)
