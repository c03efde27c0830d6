"""Paused work waits, whoever asks for it by whatever way; what is held goes on."""

import pytest

from db import bells, leases, pauses, runs, shards
from db import session as database
from db.models import EVERY_MODEL
from db.session import transaction
from tests.db import builders


def pause(sessions, model=builders.MODEL, works=pauses.ALL_WORK):
    with transaction(sessions) as session:
        pauses.pause(session, model, works, who="ada", reason="the disk is full")


def resume(sessions, model=builders.MODEL, works=pauses.ALL_WORK):
    with transaction(sessions) as session:
        return pauses.resume(session, model, works)


@pytest.fixture
def job(sessions):
    with transaction(sessions) as session:
        return builders.submit(session, 8)


def claimable(sessions):
    """Everything a worker may find by any way, as (by its bell, by waiting, rung for, said to wait)."""
    with transaction(sessions) as session:
        ids = [bell.shard_id for bell in bells.unrung(session, older_than_s=None, limit=9)]
        return ids, shards.is_any_waiting(session, [builders.MODEL])


@pytest.mark.parametrize("model", [builders.MODEL, EVERY_MODEL])
def test_a_paused_models_work_is_accepted_and_nobody_claims_it(sessions, model):
    pause(sessions, model)
    with transaction(sessions) as session:
        builders.submit(session, 8)
        assert leases.claim(session, 1, owner="ada", lease_s=60.0) is None
        assert builders.fill(session, 100) == []
        assert bells.next_like(session, 1) is None
    assert claimable(sessions) == ([], False)
    assert {one.model for one in resume(sessions, model)} == {model}
    with transaction(sessions) as session:
        assert [claim.shard_id for claim in builders.fill(session, 100)] == [1, 2]


def test_one_priority_may_wait_alone(sessions):
    pause(sessions, works=("bulk",))
    with transaction(sessions) as session:
        builders.submit(session, 4)
        builders.submit(session, 4, priority="interactive")
        assert [claim.priority for claim in builders.fill(session, 100)] == ["interactive"]
        assert leases.claim(session, 1, owner="ada", lease_s=60.0) is None


def test_urgent_work_that_is_paused_calls_nobody_away(sessions):
    with transaction(sessions) as session:
        builders.submit(session, 4, priority="interactive")
        assert shards.urgent(session, [builders.MODEL])
    pause(sessions, works=("interactive",))
    with transaction(sessions) as session:
        assert shards.urgent(session, [builders.MODEL]) == []


def test_what_a_worker_holds_it_keeps_and_finishes(sessions, job):
    with transaction(sessions) as session:
        claim, _ = builders.fill(session, 100)
    pause(sessions)
    with transaction(sessions) as session:
        assert leases.extend(session, [(claim.shard_id, claim.fence)], lease_s=60.0) == {claim.shard_id}
        assert leases.finish(session, claim, builders.outcomes_of(claim)) == "running"


def test_what_a_dead_worker_held_waits_too(sessions, job):
    with transaction(sessions) as session:
        builders.fill(session, 100, lease_s=builders.OVER_S)
    pause(sessions)
    with transaction(sessions) as session:
        assert leases.claim(session, 1, owner="bob", lease_s=60.0) is None


def test_resumed_work_is_rung_for_again(sessions, job):
    with transaction(sessions) as session:
        bells.take(session, job, limit=9)
    pause(sessions)
    resume(sessions)
    assert claimable(sessions) == ([1, 2], True)


def test_no_run_of_a_paused_model_begins(sessions):
    pause(sessions, works=("learning",))
    with transaction(sessions) as session:
        run = runs.request(session, builders.new_run())
        assert runs.due(session, older_than_s=0.0) == []
        assert runs.claim(session, run.id, owner="ada", lease_s=60.0) is None
    resume(sessions)
    with transaction(sessions) as session:
        assert runs.due(session, older_than_s=0.0) == [run.id]
        assert runs.claim(session, run.id, owner="ada", lease_s=60.0).state == "running"


def test_a_models_name_does_not_end_the_pause_of_all_but_all_ends_each(sessions):
    pause(sessions, EVERY_MODEL, ("bulk",))
    pause(sessions, works=("bulk",))
    assert [one.model for one in resume(sessions)] == [builders.MODEL]
    with database.reading(sessions) as session:
        assert [one.model for one in pauses.pauses(session, builders.MODEL)] == [EVERY_MODEL]
    pause(sessions, works=("bulk",))
    assert [one.model for one in resume(sessions, EVERY_MODEL)] == [EVERY_MODEL, builders.MODEL]


def test_a_second_pause_keeps_the_time_of_the_first(sessions):
    pause(sessions)
    with transaction(sessions) as session:
        before = pauses.pauses(session)
        pauses.pause(session, builders.MODEL, ("bulk",), who="bob", reason="still full")
        after = pauses.pauses(session)
    assert [(one.work, one.who) for one in after] == [("bulk", "bob"), ("interactive", "ada"), ("learning", "ada")]
    assert [one.at_s for one in after] == [one.at_s for one in before]
