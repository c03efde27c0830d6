import pytest

from db import errors, jobs, leases, outcomes, registry, shards, sweeps
from db.session import reading, transaction
from tests.db import builders
from tests.db.builders import LEASE_S, OVER_S, fill


def first_positions(claims):
    return [claim.items[0].position for claim in claims]


@pytest.fixture
def claim(sessions):
    """The only shard of a job of four items, claimed."""
    with transaction(sessions) as session:
        builders.submit(session, 4)
        return fill(session, 4)[0]


def test_a_claim_carries_what_a_worker_needs_and_starts_the_job(sessions, claim):
    assert claim.items == tuple(builders.items(4))
    assert (claim.model, claim.version_id, claim.priority, claim.top_k, claim.fence) == (
        "cats",
        None,
        "bulk",
        3,
        1,
    )
    with reading(sessions) as session:
        view = jobs.job(session, claim.job_id)
    assert view.state == "running"
    assert view.started_at_s >= view.accepted_at_s >= view.created_at_s


def test_a_held_shard_cannot_be_claimed_again_until_its_lease_runs_out(sessions, claim):
    with transaction(sessions) as session:
        assert leases.claim(session, claim.shard_id, owner="bob", lease_s=LEASE_S) is None
        leases.extend(session, [(claim.shard_id, claim.fence)], lease_s=OVER_S)
        taken = leases.claim(session, claim.shard_id, owner="bob", lease_s=LEASE_S)
    assert (taken.fence, taken.items) == (2, claim.items)


def test_an_unfinished_submit_cannot_be_claimed(sessions):
    with transaction(sessions) as session:
        builders.receive(session, builders.job(10), 0, 4)
        assert fill(session, 100) == []


def test_a_batch_is_filled_interactive_first_then_oldest_first(sessions):
    with transaction(sessions) as session:
        builders.submit(session, 8)
        urgent = builders.submit(session, 4, priority="interactive")
        claims = fill(session, 100)
    assert [claim.priority for claim in claims] == ["interactive", "bulk", "bulk"]
    assert first_positions(claims) == [0, 0, 4]
    assert claims[0].job_id == urgent


@pytest.mark.parametrize(
    ("max_items", "expected"),
    [
        pytest.param(1, [0], id="the first whatever its size"),
        pytest.param(4, [0], id="exactly one"),
        pytest.param(7, [0], id="the second would not fit"),
        pytest.param(8, [0, 4], id="exactly two"),
        pytest.param(99, [0, 4, 8], id="all there is"),
    ],
)
def test_a_batch_is_filled_up_to_its_size(sessions, max_items, expected):
    with transaction(sessions) as session:
        builders.submit(session, 10, shard_size=4)
        assert first_positions(fill(session, max_items)) == expected


def test_urgent_claims_are_small_interactive_shards_alone(sessions):
    with transaction(sessions) as session:
        version = registry.register(session, builders.new_version()).id
        builders.submit(session, 4)
        large = builders.submit(session, 9, shard_size=9, priority="interactive")
        small = [builders.submit(session, 3, version_id=one, priority="interactive") for one in (None, version, None)]
        found = {(one.model, one.version_id) for one in shards.urgent(session, ["cats", "dogs"])}
        assert found == {("cats", None), ("cats", version)}
        assert shards.urgent(session, ["dogs"]) == []
        claimed = [[one.job_id for one in fill(session, 8, version_id=version, urgent=True)] for _ in range(3)]
        assert claimed == [[small[1], small[0]], [small[2]], []]
        assert fill(session, 8, version_id=version)[0].job_id == large, "it waits for those who claim as ever"


def test_no_batch_mixes_versions_except_with_jobs_that_follow_the_pointer(sessions):
    with transaction(sessions) as session:
        one, two = (registry.register(session, builders.new_version()).id for _ in range(2))
        for version_id in (one, two, None):
            builders.submit(session, 4, version_id=version_id)
        assert [claim.version_id for claim in fill(session, 99, version_id=one, follows_latest=False)] == [one]
        assert [claim.version_id for claim in fill(session, 99, version_id=two)] == [two, None]


def test_finishing_records_each_item_and_ends_the_job_with_its_last_shard(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 8)
        one, two = fill(session, 99)
        assert leases.finish(session, one, builders.outcomes_of(one)) == "running"
        assert leases.finish(session, two, builders.outcomes_of(two)) == "succeeded"
        view = jobs.job(session, job_id)
        assert [row.position for row in outcomes.stream(session, job_id)] == list(range(8))
    assert (view.num_succeeded, view.num_failed, view.num_waiting, view.num_open_shards) == (8, 0, 0, 0)
    assert view.finished_at_s >= view.started_at_s


@pytest.mark.parametrize(
    ("failing", "state"),
    [
        pytest.param([], "succeeded", id="no error"),
        pytest.param([2], "partial", id="one error"),
        pytest.param([0, 1, 2, 3], "failed", id="all errors"),
    ],
)
def test_a_job_ends_as_its_outcomes_say(sessions, claim, failing, state):
    with transaction(sessions) as session:
        assert leases.finish(session, claim, builders.outcomes_of(claim, failing=failing)) == state


@pytest.mark.parametrize("count", [0, 3, 5], ids=["none", "one missing", "one twice"])
def test_a_claim_is_finished_with_one_outcome_for_each_item(sessions, claim, count):
    recorded = (builders.outcomes_of(claim) * 2)[:count]
    with transaction(sessions) as session, pytest.raises(ValueError, match="exactly one outcome"):
        leases.finish(session, claim, recorded)


def test_a_claim_cannot_be_finished_twice(sessions, claim):
    with transaction(sessions) as session:
        leases.finish(session, claim, builders.outcomes_of(claim))
    with pytest.raises(errors.LeaseLost), transaction(sessions) as session:
        leases.finish(session, claim, builders.outcomes_of(claim))


def test_a_worker_whose_lease_ran_out_cannot_overwrite_the_one_that_took_over(sessions):
    with transaction(sessions) as session:
        builders.submit(session, 4)
        stale = fill(session, 4, owner="ada", lease_s=OVER_S)[0]
    with transaction(sessions) as session:
        fresh = leases.claim(session, stale.shard_id, owner="bob", lease_s=LEASE_S)
    with pytest.raises(errors.LeaseLost), transaction(sessions) as session:
        leases.finish(session, stale, builders.outcomes_of(stale, failing=range(4)))
    with transaction(sessions) as session:
        assert leases.finish(session, fresh, builders.outcomes_of(fresh)) == "succeeded"


def test_a_lease_that_ran_out_but_was_not_taken_can_still_be_finished(sessions):
    with transaction(sessions) as session:
        builders.submit(session, 4)
        late = fill(session, 4, lease_s=OVER_S)[0]
        assert leases.finish(session, late, builders.outcomes_of(late)) == "succeeded"


def test_claims_finished_together_lose_only_the_lost_one(sessions):
    with transaction(sessions) as session:
        ids = [builders.submit(session, 4) for _ in range(3)]
        claims = fill(session, 99)
        jobs.cancel(session, ids[1])
        finished = leases.finish_all(session, [(claim, builders.outcomes_of(claim)) for claim in claims])
    assert finished.lost == {claims[1].shard_id}
    assert finished.states == {ids[0]: "succeeded", ids[2]: "succeeded"}


def test_only_leases_still_held_are_extended(sessions):
    with transaction(sessions) as session:
        for _ in range(4):
            builders.submit(session, 4)
        kept, cancelled, finished, stolen = fill(session, 99, lease_s=OVER_S)
        jobs.cancel(session, cancelled.job_id)
        leases.finish(session, finished, builders.outcomes_of(finished))
        leases.claim(session, stolen.shard_id, owner="bob", lease_s=LEASE_S)
        held = [(claim.shard_id, claim.fence) for claim in (kept, cancelled, finished, stolen)]
        assert leases.extend(session, held, lease_s=LEASE_S) == {kept.shard_id}
        assert leases.extend(session, [], lease_s=LEASE_S) == set()
        assert sweeps.reap(session, max_attempts=1).num_returned == 0


def test_a_released_shard_waits_for_its_delay(sessions, claim):
    with transaction(sessions) as session:
        leases.release(session, claim, delay_s=60, forgive=False)
        assert fill(session, 99) == []
        assert leases.claim(session, claim.shard_id, owner="bob", lease_s=LEASE_S) is None


@pytest.mark.parametrize(("forgive", "num_failed"), [(True, 0), (False, 1)], ids=["forgiven", "counted"])
def test_an_attempt_given_back_counts_unless_forgiven(sessions, forgive, num_failed):
    with transaction(sessions) as session:
        builders.submit(session, 1)
        first = fill(session, 1)[0]
        leases.release(session, first, delay_s=0, forgive=forgive)
        leases.claim(session, first.shard_id, owner="bob", lease_s=OVER_S)
        assert sweeps.reap(session, max_attempts=2).num_failed == num_failed


def test_releasing_a_lost_lease_disturbs_nobody(sessions, claim):
    with transaction(sessions) as session:
        leases.finish(session, claim, builders.outcomes_of(claim))
        leases.release(session, claim, delay_s=0, forgive=True)
        assert jobs.job(session, claim.job_id).state == "succeeded"
        assert fill(session, 99) == []


def test_a_part_of_a_claim_is_recorded_and_the_rest_goes_back_in_line(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 4)
        [claim] = fill(session, 99)
        assert leases.finish_part(session, claim, builders.outcomes_of(claim)[:3])
        leases.release(session, claim, delay_s=0.0, forgive=True)
        view = jobs.job(session, job_id)
        assert (view.state, view.num_succeeded, view.num_open_shards) == ("running", 3, 1)
        [rest] = fill(session, 99)
        assert (rest.shard_id, rest.items, rest.attempts) == (claim.shard_id, claim.items[3:], 1)
        assert not leases.finish_part(session, claim, builders.outcomes_of(claim)[3:]), "the first lease is over"
        assert leases.finish(session, rest, builders.outcomes_of(rest)) == "succeeded"
        assert len(outcomes.page(session, job_id, limit=9)) == 4
