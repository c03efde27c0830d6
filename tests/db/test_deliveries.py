"""Many small jobs at once: each is accepted whole, once, and what was there before is left alone."""

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import func, select

from db import deliveries, jobs, leases, ledger
from db.models import Job, Part, Shard
from db.session import reading, transaction
from tests.db import builders


def delivery(job: ledger.NewJob) -> deliveries.Delivery:
    return deliveries.Delivery(job=job, items=builders.items(job.num_items), digest="d")


def test_small_jobs_are_accepted_together_each_as_one_shard_that_was_rung_for(sessions):
    new = [builders.job(num_items) for num_items in (1, 2, 3)]
    with transaction(sessions) as session:
        rung = {bell.job_id: bell for bell in deliveries.receive(session, [delivery(job) for job in new])}
        assert not deliveries.receive(session, [])
    with reading(sessions) as session:
        for job in new:
            view = jobs.job(session, job.id)
            assert (view.state, view.num_received, view.num_open_shards) == ("accepted", job.num_items, 1)
            assert view.accepted_at_s is not None
            shard = session.scalars(select(Shard).where(Shard.job_id == job.id)).one()
            assert (rung[job.id].shard_id, rung[job.id].num_items) == (shard.id, job.num_items)
            assert shard.rung_at_s is not None


def test_a_job_that_is_known_by_its_id_or_its_key_is_left_to_the_ledger(sessions):
    known, keyed = builders.job(2), builders.job(2, idempotency_key="order-7")
    fresh = builders.job(2, idempotency_key="order-8")
    with transaction(sessions) as session:
        deliveries.receive(session, [delivery(known), delivery(keyed)])
    with transaction(sessions) as session:
        again = [delivery(known), delivery(builders.job(2, idempotency_key="order-7")), delivery(fresh)]
        assert [bell.job_id for bell in deliveries.receive(session, [*again, delivery(fresh)])] == [fresh.id]
        assert session.scalar(select(func.count()).select_from(Job)) == 3
        assert session.scalar(select(func.count()).select_from(Part)) == 3
        assert session.scalar(select(func.count()).select_from(Shard)) == 3
        receipt = builders.receive(session, known, digest="d")
        assert (receipt.state, receipt.newly_accepted) == ("accepted", False)


def test_two_who_deliver_the_same_jobs_in_other_orders_accept_each_once(sessions):
    new = [builders.job(1, idempotency_key=f"key-{number}") for number in range(20)]

    def deliver(in_order):
        with transaction(sessions) as session:
            return len(deliveries.receive(session, [delivery(job) for job in in_order]))

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(deliver, (new, new[::-1]))) == len(new)


def test_many_jobs_start_and_end_together_and_are_named_with_their_counts(sessions):
    new = [builders.job(1) for _ in range(6)]
    with transaction(sessions) as session:
        deliveries.receive(session, [delivery(job) for job in new])
        claims = leases.claim_waiting(
            session, model=builders.MODEL, version_id=1, follows_latest=True, max_items=64, owner="ada", lease_s=60.0
        )
        assert {jobs.job(session, job.id).state for job in new} == {"running"}
        work = [(claim, builders.outcomes_of(claim, failing=[0] * (number % 2))) for number, claim in enumerate(claims)]
        finished = leases.finish_all(session, work)
    ended = {job.id: job for job in finished.ended}
    for number, claim in enumerate(claims):
        job = ended[claim.job_id]
        assert (job.state, job.num_succeeded, job.num_failed) == (
            ("failed", 0, 1) if number % 2 else ("succeeded", 1, 0)
        )
        assert job.finished_at_s >= job.started_at_s >= job.created_at_s
    assert len(ended) == len(new)


def test_a_job_with_a_shard_left_or_cancelled_meanwhile_is_not_named_as_ended(sessions):
    with transaction(sessions) as session:
        builders.submit(session, 8, shard_size=4)
        cancelled = builders.submit(session, 4)
        claims = [leases.claim(session, number, owner="ada", lease_s=60.0) for number in (1, 3)]
        jobs.cancel(session, cancelled)
        finished = leases.finish_all(session, [(claim, builders.outcomes_of(claim)) for claim in claims])
    assert not finished.ended
    assert finished.lost == {3}
