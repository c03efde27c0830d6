import pytest
from sqlalchemy import select

from db import bells, jobs, leases, sweeps
from db.models import Shard
from db.session import transaction
from tests.db import builders
from tests.db.builders import OVER_S, fill


def owed(session, older_than_s=None):
    return [bell.shard_id for bell in bells.unrung(session, older_than_s=older_than_s, limit=100)]


def test_a_bell_carries_what_names_its_queue(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 6, priority="interactive")
        first, second = bells.unrung(session, older_than_s=None, limit=100)
        assert (first.job_id, first.model, first.version_id) == (job_id, builders.MODEL, None)
        assert (first.priority, first.num_items, second.num_items) == ("interactive", 4, 2)
        assert bells.take(session, job_id, limit=9) == [first, second]


def test_a_bell_is_owed_until_it_is_rung_or_taken_to_be(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 8)
        first, second = owed(session)
        bells.mark_rung(session, [first])
        assert owed(session) == [second]
        assert [bell.shard_id for bell in bells.take(session, job_id, limit=9)] == [second]
        assert owed(session) == []


@pytest.mark.parametrize(("older_than_s", "expected"), [(None, 0), (60, 0), (-1, 1)], ids=["never", "young", "old"])
def test_a_bell_rung_long_ago_is_owed_again_to_whoever_asks(sessions, older_than_s, expected):
    with transaction(sessions) as session:
        builders.submit(session, 4)
        bells.mark_rung(session, owed(session))
        assert len(owed(session, older_than_s)) == expected


def test_no_bell_is_owed_for_a_shard_nobody_may_claim(sessions):
    with transaction(sessions) as session:
        builders.receive(session, builders.job(10), 0, 5)
        jobs.cancel(session, builders.submit(session, 4))
        builders.submit(session, 4)
        claim = fill(session, 4)[0]
        assert owed(session) == []
        leases.release(session, claim, delay_s=60, forgive=True)
        assert owed(session) == []


def test_a_shard_that_came_back_is_owed_a_new_bell(sessions):
    with transaction(sessions) as session:
        builders.submit(session, 4)
        bells.mark_rung(session, owed(session))
        claim = fill(session, 4, lease_s=OVER_S)[0]
        sweeps.reap(session, max_attempts=3)
        assert owed(session) == [claim.shard_id]


def test_bells_are_listed_up_to_the_limit_oldest_first(sessions):
    with transaction(sessions) as session:
        builders.submit(session, 12)
        assert [bell.shard_id for bell in bells.unrung(session, older_than_s=None, limit=2)] == owed(session)[:2]


def test_the_next_like_a_shard_is_the_oldest_untried_of_its_kind(sessions):
    with transaction(sessions) as session:
        heard = builders.submit(session, 1)
        for other in ({"priority": "interactive"}, {"model": "dogs"}):
            builders.submit(session, 1, **other)
        tried, first, _ = (builders.submit(session, 1) for _ in range(3))
        rows = {job_id: shard_id for shard_id, job_id in session.execute(select(Shard.id, Shard.job_id))}
        lost = leases.claim(session, rows[tried], owner="ada", lease_s=60.0)
        leases.release(session, lost, delay_s=0.0, forgive=False)
        leases.claim(session, rows[heard], owner="ada", lease_s=60.0)
        assert bells.next_like(session, rows[heard]).job_id == first
        assert bells.next_like(session, 10**6) is None
