"""What is unfinished is known at any time, for each caller, from the jobs alone."""

from sqlalchemy import update

from db import jobs, leases, unfinished
from db.models import Job
from db.session import clock, now_s, transaction
from tests.db import builders
from tests.db.builders import fill


def age(session, job_id, seconds):
    session.execute(update(Job).where(Job.id == job_id).values(created_at_s=now_s() - seconds))


def test_items_count_for_their_caller_until_they_have_an_outcome(sessions):
    with transaction(sessions) as session:
        builders.submit(session, 10, caller="shop")
        builders.submit(session, 3, caller="shop")
        builders.submit(session, 5)
        cancelled = builders.submit(session, 7, caller="web")
        assert unfinished.by_caller(session) == {"shop": 13, "web": 7, None: 5}
        jobs.cancel(session, cancelled)
        for claim in fill(session, 8):
            leases.finish(session, claim, builders.outcomes_of(claim, failing=[0]))
        assert unfinished.by_caller(session) == {"shop": 5, None: 5}
        while claims := fill(session, 100):
            for claim in claims:
                leases.finish(session, claim, builders.outcomes_of(claim))
        assert unfinished.by_caller(session) == {}


def test_a_job_that_is_being_received_counts_whole_until_its_sender_is_given_up(sessions):
    with transaction(sessions) as session:
        receiving = builders.receive(session, builders.job(100, caller="shop"), 0, 20).job_id
        assert unfinished.by_caller(session) == {"shop": 100}
        age(session, receiving, unfinished.RECEIVING_S + 1)
        assert unfinished.by_caller(session) == {"shop": 20}


def test_what_came_before_a_moment_and_what_came_since_make_up_all(sessions):
    with transaction(sessions) as session:
        age(session, builders.submit(session, 10, caller="shop"), 60)
        builders.submit(session, 3, caller="shop")
        moment_s = clock(session) - 30
        assert unfinished.by_caller(session, since_s=moment_s) == {"shop": 3}
        assert unfinished.by_caller(session, before_s=moment_s) == {"shop": 10}
