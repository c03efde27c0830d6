"""What the broker loses and what dead workers hold comes back; what kills workers is found out and recorded."""

import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from db import bells, jobs, leases, models, registry, session
from tests.db import builders as rows
from tests.worker import builders
from worker import messages, relay, ringing

Sessions = sessionmaker[Session]
NINE = [f"s3://photos/{n}.jpg" for n in range(9)]


@pytest.fixture(autouse=True)
def _version(version: registry.Version) -> None:
    """Something serves."""


class Belfry:
    """Remembers the bells, and says how many wait in every queue."""

    def __init__(self, num_waiting: int = 0) -> None:
        self.rung: list[int] = []
        self.asked: set[str] = set()
        self._num_waiting = num_waiting

    def ring(self, bell: bells.Bell) -> None:
        self.rung.append(bell.shard_id)

    def num_ringing(self, queues: Iterable[str]) -> dict[str, int]:
        self.asked |= set(queues)
        return dict.fromkeys(queues, self._num_waiting)


def sweep(sessions: Sessions, belfry: Belfry, *, max_attempts: int = 3) -> relay.Sweep:
    return relay.sweep(sessions, belfry.ring, belfry.num_ringing, max_attempts=max_attempts)


def ids(sessions: Sessions) -> list[int]:
    return [shard.id for shard in builders.shards(sessions)]


def rung_long_ago(sessions: Sessions) -> None:
    """Set the bells back, so that no test waits for a clock."""
    with session.transaction(sessions) as transaction:
        transaction.execute(update(models.Shard).values(rung_at_s=models.Shard.rung_at_s - 2 * relay.RING_AGAIN_S))


def claim_first(sessions: Sessions, *, lease_s: float) -> leases.Claim:
    waiting = next(shard.id for shard in builders.shards(sessions) if shard.state == "waiting")
    with session.transaction(sessions) as transaction:
        return leases.claim(transaction, waiting, owner="ada", lease_s=lease_s)


def test_a_sweep_that_redis_leaves_halfway_rings_for_the_rest_the_next_time(sessions: Sessions, tmp_path: Path) -> None:
    builders.submit(builders.desk(sessions, tmp_path), NINE)
    rung_long_ago(sessions)
    first, later = Belfry(), Belfry()

    def ring_once(bell: bells.Bell) -> None:
        if first.rung:
            raise ringing.BellLost("no bell")
        first.ring(bell)

    halfway = relay.sweep(sessions, ring_once, first.num_ringing, max_attempts=3)
    assert (halfway.num_rung, sweep(sessions, later).num_rung) == (1, 2)
    assert sorted(first.rung + later.rung) == ids(sessions)


@pytest.mark.parametrize(("num_waiting", "num_rung"), [(0, 3), (1, 0)], ids=["empty queue", "queue with bells"])
def test_a_lost_bell_rings_again_if_its_queue_is_empty(
    sessions: Sessions, tmp_path: Path, num_waiting: int, num_rung: int
) -> None:
    builders.submit(builders.desk(sessions, tmp_path), NINE)
    rung_long_ago(sessions)
    belfry = Belfry(num_waiting)
    swept = sweep(sessions, belfry)
    assert (swept.num_rung, len(belfry.rung)) == (num_rung, num_rung)
    assert belfry.asked == {messages.classify_queue("cats", "bulk")}
    assert swept.found_something is bool(num_rung)


def test_a_bell_that_has_just_rung_is_left_alone(sessions: Sessions, tmp_path: Path) -> None:
    builders.submit(builders.desk(sessions, tmp_path), NINE)
    belfry = Belfry()
    assert not sweep(sessions, belfry).found_something
    assert belfry.rung == []


def test_a_shard_that_was_rung_for_again_is_not_rung_for_a_third_time(sessions: Sessions, tmp_path: Path) -> None:
    builders.submit(builders.desk(sessions, tmp_path), NINE)
    rung_long_ago(sessions)
    belfry = Belfry()
    for _ in range(2):
        sweep(sessions, belfry)
    assert belfry.rung == ids(sessions)


def test_a_dead_workers_shard_is_returned_and_rung_for(sessions: Sessions, tmp_path: Path) -> None:
    builders.submit(builders.desk(sessions, tmp_path), NINE)
    dead = claim_first(sessions, lease_s=builders.OVER_S)
    alive = claim_first(sessions, lease_s=60.0)
    belfry = Belfry()
    swept = sweep(sessions, belfry)
    assert (swept.reaped.num_returned, belfry.rung) == (1, [dead.shard_id])
    states = {shard.id: shard.state for shard in builders.shards(sessions)}
    assert (states[dead.shard_id], states[alive.shard_id]) == ("waiting", "claimed")
    assert str(swept) == "0 jobs expired, 1 shards returned, 0 split, 0 given up, 1 bells rung"


def test_an_item_that_kills_its_workers_is_found_and_given_up_and_the_others_get_their_outcome(
    sessions: Sessions, tmp_path: Path
) -> None:
    poison, job_id = 2, builders.submit(builders.desk(sessions, tmp_path), NINE[:4])
    for _ in range(20):
        if not any(shard.state == "waiting" for shard in builders.shards(sessions)):
            break
        claim = claim_first(sessions, lease_s=builders.OVER_S)
        if poison not in {item.position for item in claim.items}:
            record(sessions, claim)
        sweep(sessions, Belfry(), max_attempts=2)
    recorded = builders.outcomes(sessions, job_id)
    assert [one.label for one in recorded] == ["cat", "cat", None, "cat"]
    assert (recorded[poison].error.kind, recorded[poison].error.stage) == ("killed_worker", "forward")
    assert view(sessions, job_id).state == "partial"


@pytest.mark.parametrize("num_done", [0, 1], ids=["untouched", "begun"])
def test_a_job_past_its_deadline_expires_and_keeps_what_it_has(
    sessions: Sessions, tmp_path: Path, num_done: int
) -> None:
    job_id = builders.submit(builders.desk(sessions, tmp_path), NINE, deadline_s=3600.0)
    for _ in range(num_done):
        record(sessions, claim_first(sessions, lease_s=60.0))
    with session.transaction(sessions) as transaction:
        transaction.execute(update(models.Job).values(deadline_s=1.0))
    belfry = Belfry()
    assert sweep(sessions, belfry).num_expired == 1
    ended = view(sessions, job_id)
    assert (ended.state, ended.num_succeeded, belfry.rung) == ("expired", 4 * num_done, [])
    assert not sweep(sessions, belfry).found_something


def record(sessions: Sessions, claim: leases.Claim) -> None:
    with session.transaction(sessions) as transaction:
        leases.finish(transaction, claim, rows.outcomes_of(claim))


def view(sessions: Sessions, job_id: uuid.UUID) -> jobs.JobView:
    with session.reading(sessions) as reading:
        return jobs.job(reading, job_id)
