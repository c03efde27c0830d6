"""Promises that hold among processes: real ones, on one database."""

import multiprocessing
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from db import bells, errors, jobs, leases, outcomes, sweeps
from db import session as database
from db.models import Outcome, Shard
from db.session import reading, transaction
from tests.db import builders
from tests.db.builders import OVER_S, fill

#: real processes that share nothing but the database, forked from one that has imported this already
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def drain(url, name, claimed):
    """Claim and finish until nothing waits, by both ways a worker has; tell what was claimed."""
    sessions = database.connect(url)
    mine = []
    while True:
        with transaction(sessions) as session:
            claims = fill(session, 8, owner=name)
        with transaction(sessions) as session:
            leases.finish_all(session, [(claim, builders.outcomes_of(claim)) for claim in claims])
        mine += [claim.shard_id for claim in claims]
        if not claims:
            break
    claimed.put(mine)


def claim_each(url, name, claimed):
    """Answer the bell of every shard, and finish what it gives."""
    sessions = database.connect(url)
    mine = []
    with reading(sessions) as session:
        ids = list(session.scalars(select(Shard.id).order_by(Shard.id)))
    for shard_id in ids:
        with transaction(sessions) as session:
            claim = leases.claim(session, shard_id, owner=name, lease_s=builders.LEASE_S)
        if claim is not None:
            with transaction(sessions) as session:
                leases.finish(session, claim, builders.outcomes_of(claim))
            mine.append(shard_id)
    claimed.put(mine)


def test_no_shard_is_claimed_twice_by_competing_processes(sessions, database_url):
    with transaction(sessions) as session:
        ids = [builders.submit(session, 10, shard_size=2) for _ in range(24)]
    claimed = PROCESSES.Queue()
    workers = [
        PROCESSES.Process(target=work, args=(database_url, f"worker-{n}", claimed))
        for n, work in enumerate((drain, claim_each, drain, claim_each))
    ]
    for worker in workers:
        worker.start()
    shards = sorted(shard_id for _ in workers for shard_id in claimed.get(timeout=60))
    for worker in workers:
        worker.join(timeout=60)
    with reading(sessions) as session:
        assert shards == sorted(session.scalars(select(Shard.id)))
        assert {jobs.job(session, job_id).state for job_id in ids} == {"succeeded"}
        assert session.scalar(select(func.count()).select_from(Outcome)) == 240


def claim_and_hang(url, claimed):
    with transaction(database.connect(url)) as session:
        claim = fill(session, 4, lease_s=0.2)[0]
    claimed.put(claim)
    signal.pause()


def test_what_a_killed_process_held_is_finished_by_another(sessions, database_url):
    with transaction(sessions) as session:
        builders.submit(session, 4)
    claimed = PROCESSES.Queue()
    victim = PROCESSES.Process(target=claim_and_hang, args=(database_url, claimed))
    victim.start()
    held = claimed.get(timeout=60)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(timeout=60)
    taken = None
    while taken is None:  # pytest-timeout is the deadline
        with transaction(sessions) as session:
            taken = leases.claim(session, held.shard_id, owner="heir", lease_s=builders.LEASE_S)
    with transaction(sessions) as session:
        assert leases.finish(session, taken, builders.outcomes_of(taken)) == "succeeded"
    with pytest.raises(errors.LeaseLost), transaction(sessions) as session:
        leases.finish(session, held, builders.outcomes_of(held))


def disturb(sessions, ids, seed):
    """Do what workers, people and sweeps do, all at once, for a while."""
    choose = random.Random(seed)
    acts = (
        lambda session: jobs.cancel(session, choose.choice(ids)),
        lambda session: jobs.retry(session, choose.choice(ids), shard_size=3),
        lambda session: sweeps.reap(session, max_attempts=2),
        lambda session: bells.mark_rung(session, [b.shard_id for b in bells.unrung(session, older_than_s=-1, limit=9)]),
    )
    for _ in range(30):
        try:
            with transaction(sessions) as session:
                claims = fill(session, choose.randint(1, 20), lease_s=choose.choice([OVER_S, 60]))
            with transaction(sessions) as session:
                leases.extend(session, [(claim.shard_id, claim.fence) for claim in claims], lease_s=60)
            with transaction(sessions) as session:
                choose.choice(acts)(session)
            work = [(claim, builders.outcomes_of(claim, failing=[choose.randint(0, 20)])) for claim in claims]
            with transaction(sessions) as session:
                leases.finish_all(session, work)
        except errors.JobFinished:
            continue


def test_workers_people_and_sweeps_never_deadlock_nor_lose_count(sessions):
    with transaction(sessions) as session:
        ids = [builders.submit(session, 20, shard_size=3) for _ in range(4)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda seed: disturb(sessions, ids, seed), range(6)))
    with reading(sessions) as session:
        for job_id in ids:
            check_counts(session, job_id)


def check_counts(session, job_id):
    """The counters of a job agree with its rows, and each item is in exactly one place."""
    view = jobs.job(session, job_id)
    rows = list(outcomes.stream(session, job_id))
    shards = session.scalars(select(Shard).where(Shard.job_id == job_id)).all()
    left = [item[0] for shard in shards if shard.items for item in shard.items]
    assert sorted([row.position for row in rows] + left) == list(range(view.num_received))
    assert view.num_failed == sum(row.error is not None for row in rows)
    assert view.num_succeeded == len(rows) - view.num_failed
    assert view.num_open_shards == sum(shard.state in ("waiting", "claimed") for shard in shards)
    ended = view.state in ("succeeded", "partial", "failed", "cancelled", "expired")
    assert ended == (view.finished_at_s is not None)
    assert not (view.state == "running" and view.num_open_shards == 0)
