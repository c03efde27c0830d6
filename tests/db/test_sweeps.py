from db import jobs, leases, outcomes, sweeps
from db.session import transaction
from tests.db import builders
from tests.db.builders import OVER_S, fill


def die(session, max_items=99):
    """Claim everything, and never come back."""
    return fill(session, max_items, lease_s=OVER_S)


def test_a_dead_workers_shard_waits_again_and_asks_for_a_bell(sessions):
    with transaction(sessions) as session:
        builders.submit(session, 4)
        died = die(session)[0]
        assert sweeps.reap(session, max_attempts=3).num_returned == 1
        assert sweeps.reap(session, max_attempts=3).num_returned == 0
        assert fill(session, 99)[0].items == died.items


def test_a_shard_that_keeps_killing_its_worker_is_halved(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 5, shard_size=5)
        die(session)
        assert sweeps.reap(session, max_attempts=1).num_split == 1
        assert jobs.job(session, job_id).num_open_shards == 2
        assert [len(claim.items) for claim in fill(session, 99)] == [3, 2]


def test_an_item_that_kills_every_worker_fails_alone_and_its_neighbours_succeed(sessions):
    deadly = 5
    with transaction(sessions) as session:
        job_id = builders.submit(session, 8, shard_size=8)
        for _ in range(20):
            for claim in fill(session, 1, lease_s=OVER_S):
                if all(item.position != deadly for item in claim.items):
                    leases.finish(session, claim, builders.outcomes_of(claim))
            sweeps.reap(session, max_attempts=2)
        view = jobs.job(session, job_id)
        errors = outcomes.page(session, job_id, limit=9, errors=True)
    assert (view.state, view.num_succeeded, view.num_failed) == ("partial", 7, 1)
    assert [(row.position, row.error.stage, row.error.kind) for row in errors] == [(deadly, "forward", "killed_worker")]


def test_a_lease_that_has_not_run_out_is_left_alone(sessions):
    with transaction(sessions) as session:
        builders.submit(session, 4)
        fill(session, 99)
        assert sweeps.reap(session, max_attempts=1) == sweeps.Reaped(num_returned=0, num_split=0, num_failed=0)


def test_a_job_past_its_deadline_expires_and_keeps_what_it_has(sessions):
    with transaction(sessions) as session:
        late = builders.submit(session, 8, deadline_s=1.0)
        builders.submit(session, 8, deadline_s=1e12)
        builders.submit(session, 8)
        claim = fill(session, 4)[0]
        leases.finish(session, claim, builders.outcomes_of(claim))
        assert sweeps.expire(session) == 1
        assert sweeps.expire(session) == 0
        view = jobs.job(session, late)
    assert (view.state, view.num_succeeded, view.num_open_shards) == ("expired", 4, 0)
