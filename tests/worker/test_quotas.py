"""Too much is refused before it waits, with the figures and when to come again; what was promised stays promised."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from db import jobs, models, registry, session, workers
from tests.worker import builders
from worker import heartbeat, intake
from worker.messages import Receipt, Refusal
from worker.quotas import LATEST_S, SOONEST_S, UNKNOWN_S, Quotas

Sessions = sessionmaker[Session]
#: A desk with these limits.
Open = Callable[..., intake.Desk]


@pytest.fixture
def opened(sessions: Sessions, tmp_path: Path, version: registry.Version) -> Open:
    """Open an intake's desk with limits; something serves."""
    return lambda **limits: builders.desk(sessions, tmp_path, quotas=Quotas(**limits))


def named(num_items: int) -> list[str]:
    return [f"s3://photos/{number}.jpg" for number in range(num_items)]


def refused(desk: intake.Desk, num_sent: int, **fields: object) -> Refusal:
    reply = intake.submit(desk, builders.wire(named(num_sent), **fields))
    assert isinstance(reply, Refusal), reply
    return reply


def test_a_full_queue_says_how_full_it_is_and_when_to_come_again(opened: Open) -> None:
    desk = opened(max_waiting=100)
    builders.submit(desk, named(95), caller="shop")
    assert refused(desk, 6, caller="web") == Refusal(
        kind="queue_full",
        message=(
            "The queue is full: 95 items wait of 100 that may (IMAGEMILL_MAX_WAITING_ITEMS), and this job has 6. "
            "Try again in about 60 s."
        ),
        retry_after_s=UNKNOWN_S,
    )
    builders.submit(desk, named(5))
    assert refused(desk, 1).kind == "queue_full"


def test_a_tenth_more_is_kept_for_interactive_work(opened: Open) -> None:
    desk = opened(max_waiting=15)
    builders.submit(desk, named(15))
    assert refused(desk, 1).kind == "queue_full"
    for _ in range(2):
        builders.submit(desk, priority="interactive")
    assert "17 items wait of 17 that may" in refused(desk, 1, priority="interactive").message


def test_a_quota_holds_for_one_caller_alone(opened: Open) -> None:
    desk = opened(max_caller=10)
    builders.submit(desk, named(8), caller="shop")
    no = refused(desk, 3, caller="shop")
    assert (no.kind, no.retry_after_s) == ("quota_exceeded", UNKNOWN_S)
    assert no.message.startswith(
        "Caller 'shop' has 8 items waiting of 10 (IMAGEMILL_MAX_CALLER_ITEMS), and this job has 3."
    )
    builders.submit(desk, named(3), caller="shop", priority="interactive")
    builders.submit(desk, named(10), caller="web")
    builders.submit(desk, named(10))
    assert refused(desk, 1).message.startswith("Callers without a name have 10 items waiting of 10 ")


def test_what_was_done_makes_room(opened: Open, sessions: Sessions) -> None:
    desk = opened(max_waiting=10)
    first = builders.submit(desk, named(10))
    assert refused(desk, 10).kind == "queue_full"
    with session.transaction(sessions) as transaction:
        jobs.cancel(transaction, first)
    builders.submit(desk, named(10))


def test_a_job_that_is_known_is_never_refused(opened: Open) -> None:
    desk = opened(max_waiting=10)
    small = builders.wire(named(2), idempotency_key="order-7")
    large = builders.wire(named(8), idempotency_key="order-8")
    receipts = [intake.submit(desk, sent) for sent in (small, large)]
    again = [small, large, small | {"job_id": str(uuid.uuid4())}, large | {"job_id": str(uuid.uuid4())}]
    assert refused(desk, 1).kind == "queue_full"
    told = [one.reply for one in intake.submit_all(desk, [builders.wire(), *again])]
    assert isinstance(told[0], Refusal)
    assert told[1:] == receipts * 2


def test_the_first_part_that_comes_decides_for_the_whole_job(opened: Open) -> None:
    desk = opened(max_waiting=10)
    header = {"job_id": str(uuid.uuid4()), "num_items": 10}
    assert isinstance(intake.submit(desk, builders.wire(named(4), first_position=4, **header)), Receipt)
    assert refused(desk, 1).kind == "queue_full", "all ten are counted"
    rest = [builders.wire(named(num), first_position=first, **header) for first, num in ((0, 4), (8, 2))]
    assert [intake.submit(desk, part).state for part in rest] == ["receiving", "accepted"]
    too_much = {"job_id": str(uuid.uuid4()), "num_items": 11}
    assert refused(opened(max_waiting=10), 4, **too_much).kind == "queue_full"


def test_a_job_that_will_never_fit_is_not_told_to_come_again(opened: Open) -> None:
    no = refused(opened(max_waiting=10), 4, num_items=12_000)
    assert no.retry_after_s is None
    assert no.message.endswith("and this job has 12,000: send it as several jobs, or have the limit raised.")


def test_of_small_jobs_that_come_together_those_that_fit_are_accepted(opened: Open) -> None:
    desk = opened(max_waiting=11, max_caller=5)
    sent = [builders.wire(named(2), caller=caller) for caller in ("shop", "web", "shop", "web", "shop", "ada", "bob")]
    told = [one.reply for one in intake.submit_all(desk, sent)]
    kinds = [reply.kind if isinstance(reply, Refusal) else reply.state for reply in told]
    assert kinds == ["accepted"] * 4 + ["quota_exceeded", "accepted", "queue_full"]


PACES = {
    "two workers": ([30.0, 20.0], 500, 10.0),
    "one that has not worked yet": ([40.0, None], 500, 13.0),
    "quick ones": ([100_000.0], 500, SOONEST_S),
    "slow ones": ([0.001], 500, LATEST_S),
}


@pytest.mark.parametrize(("paces", "num_over", "seconds"), PACES.values(), ids=PACES)
def test_the_workers_pace_says_when_to_come_again(
    opened: Open, sessions: Sessions, paces: list[float | None], num_over: int, seconds: float
) -> None:
    desk = opened(max_waiting=1000)
    with session.transaction(sessions) as transaction:
        for number, pace in enumerate(paces):
            told = None if pace is None else {builders.MODEL: pace, "dogs": 7.0}
            row = heartbeat.row("classify", name=f"worker {number}", models=(builders.MODEL,), images_per_s=told)
            workers.beat(transaction, row)
    builders.submit(desk, named(1000))
    assert refused(desk, num_over).retry_after_s == seconds


def test_jobs_of_long_ago_are_counted_once_in_a_while_and_later_ones_at_each_look(
    opened: Open, sessions: Sessions
) -> None:
    desk, other = opened(max_waiting=20), opened(max_waiting=20)
    old = builders.submit(other, named(10))
    with session.transaction(sessions) as transaction:
        transaction.execute(update(models.Job).values(created_at_s=models.Job.created_at_s - 60))
    desk.quotas.count.renew(sessions)
    builders.submit(other, named(10))
    assert refused(desk, 1).kind == "queue_full", "the other intake's jobs count, old and new"
    with session.transaction(sessions) as transaction:
        jobs.cancel(transaction, old)
    assert refused(desk, 1).kind == "queue_full", "too high until it is counted again"
    assert isinstance(intake.submit(other, builders.wire()), Receipt), "who never counted knows"
    fresh = opened(max_waiting=20)
    fresh.quotas.count.renew(sessions)
    builders.submit(fresh, named(9))


def test_two_intakes_at_once_overshoot_by_one_job_at_most(opened: Open, sessions: Sessions) -> None:
    def fill(desk: intake.Desk) -> int:
        told = [intake.submit(desk, builders.wire(named(10))) for _ in range(15)]
        return sum(isinstance(reply, Receipt) for reply in told)

    with ThreadPoolExecutor(2) as intakes:
        accepted = sum(intakes.map(fill, [opened(max_waiting=100) for _ in range(2)]))
    assert accepted in (10, 11)
