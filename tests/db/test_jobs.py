import uuid

import pytest
from sqlalchemy import select

from db import errors, jobs, leases, outcomes, registry, shards
from db.models import Shard
from db.session import transaction
from tests.db import builders
from tests.db.builders import LEASE_S, OVER_S, fill


def finish_next(session, *, failing=()):
    claim = fill(session, 1)[0]
    return leases.finish(session, claim, builders.outcomes_of(claim, failing=failing))


def test_a_job_is_shown_with_the_name_of_its_version(sessions):
    with transaction(sessions) as session:
        version = registry.register(session, builders.new_version())
        view = jobs.job(session, builders.submit(session, 10, version_id=version.id, caller="web"))
    assert (view.version, view.version_id, view.caller) == ("cats:1", version.id, "web")
    assert (view.state, view.num_waiting, view.num_open_shards) == ("accepted", 10, 3)


def test_jobs_are_listed_newest_first_and_by_state(sessions):
    with transaction(sessions) as session:
        old, new = builders.submit(session), builders.submit(session)
        jobs.cancel(session, old)
        assert [view.id for view in jobs.jobs(session, limit=10)] == [new, old]
        assert [view.id for view in jobs.jobs(session, limit=10, state="cancelled")] == [old]
        assert [view.id for view in jobs.jobs(session, limit=1)] == [new]


@pytest.mark.parametrize("act", [jobs.job, jobs.cancel, lambda s, i: jobs.retry(s, i, shard_size=4)])
def test_an_unknown_job_is_named(sessions, act):
    missing = uuid.uuid4()
    with transaction(sessions) as session, pytest.raises(errors.UnknownJob, match=str(missing)):
        act(session, missing)


def test_the_backlog_sums_up_what_waits_per_kind(sessions):
    with transaction(sessions) as session:
        version = registry.register(session, builders.new_version())
        builders.submit(session, 10, version_id=version.id)
        builders.submit(session, 3)
        builders.submit(session, 2, priority="interactive")
        builders.receive(session, builders.job(10), 0, 5)
        fill(session, 2)
        told = {(b.version, b.priority): (b.num_items, b.num_shards) for b in jobs.waiting_items(session)}
        oldest_s = max(backlog.oldest_s for backlog in jobs.waiting_items(session))
    assert told == {("cats:1", "bulk"): (10, 3), (None, "bulk"): (3, 1)}
    assert 0 <= oldest_s < 60


def test_a_cancelled_job_keeps_its_outcomes_and_its_unfinished_items_readable(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 10)
        finish_next(session)
        assert jobs.cancel(session, job_id) == "cancelled"
        view = jobs.job(session, job_id)
        dropped = session.scalars(select(Shard).where(Shard.state == "dropped").order_by(Shard.id)).all()
        left = [item.position for shard in dropped for item in shards.items_of(shard)]
        assert fill(session, 99) == []
    assert (view.num_succeeded, view.num_open_shards, view.finished_at_s is not None) == (4, 0, True)
    assert left == list(range(4, 10))


def test_a_job_is_cancelled_once(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session)
        jobs.cancel(session, job_id)
        with pytest.raises(errors.JobFinished, match="cancelled already"):
            jobs.cancel(session, job_id)


def test_a_cancelled_claim_cannot_be_finished(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 4)
        claim = fill(session, 4)[0]
        jobs.cancel(session, job_id)
    with pytest.raises(errors.LeaseLost), transaction(sessions) as session:
        leases.finish(session, claim, builders.outcomes_of(claim))


def test_a_retry_replaces_the_errors_and_keeps_the_labels(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 10, shard_size=10)
        first = fill(session, 99)[0]
        assert leases.finish(session, first, builders.outcomes_of(first, failing=[1, 4, 5])) == "partial"
        assert jobs.retry(session, job_id, shard_size=2) == 3
        view = jobs.job(session, job_id)
        assert (view.state, view.num_failed, view.num_waiting, view.num_open_shards) == ("running", 0, 3, 2)
        again = fill(session, 99)
        assert [[item.position for item in claim.items] for claim in again] == [[1, 4], [5]]
        assert again[0].items[0] == first.items[1]
        states = [leases.finish(session, claim, builders.outcomes_of(claim)) for claim in again]
        assert states == ["running", "succeeded"]
        assert len(list(outcomes.stream(session, job_id))) == 10


def test_a_retry_of_a_cancelled_job_makes_its_unfinished_items_wait_again(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 10, deadline_s=1e12)
        finish_next(session, failing=[0])
        held = fill(session, 4)[0]
        jobs.cancel(session, job_id)
        assert jobs.retry(session, job_id, shard_size=4) == 7
        view = jobs.job(session, job_id)
        assert (view.state, view.deadline_s, view.finished_at_s) == ("running", None, None)
        with pytest.raises(errors.LeaseLost):
            leases.finish(session, held, builders.outcomes_of(held))
        assert [finish_next(session) for _ in range(3)] == ["running", "running", "succeeded"]


def test_a_retry_of_a_job_cancelled_while_it_was_received_takes_the_missing_parts(sessions):
    new = builders.job(10)
    with transaction(sessions) as session:
        builders.receive(session, new, 0, 5)
        jobs.cancel(session, new.id)
        assert jobs.retry(session, new.id, shard_size=4) == 5
        assert builders.receive(session, new, 5).newly_accepted
        assert sum(len(claim.items) for claim in fill(session, 99)) == 10


def test_a_retry_of_a_job_without_errors_changes_nothing(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 4)
        finish_next(session)
        assert jobs.retry(session, job_id, shard_size=4) == 0
        assert jobs.job(session, job_id).state == "succeeded"


def test_a_retried_shard_starts_with_a_clean_record(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 1)
        fill(session, 1, lease_s=OVER_S)
        jobs.cancel(session, job_id)
        jobs.retry(session, job_id, shard_size=4)
        claim = fill(session, 1, lease_s=LEASE_S)[0]
        assert session.scalar(select(Shard.attempts).where(Shard.id == claim.shard_id)) == 1
