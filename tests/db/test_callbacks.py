"""A job's end is told once it is there, by one sender at a time, until somebody has it or nobody wants it."""

import pytest
from sqlalchemy import delete, select

from db import callbacks, jobs, leases, models
from db import session as database
from db.session import transaction
from tests.db import builders
from tests.db.builders import LEASE_S, OVER_S
from tests.db.test_races import PROCESSES

HOST = "hooks.example.org"
URL = f"https://{HOST}/done?token=1"


def wanted(session, host=HOST, **header):
    """A job whose end somebody wants to be told of."""
    job_id = builders.submit(session, 4, **header)
    callbacks.add(session, job_id, f"https://{host}/done?token=1", host=host)
    return job_id


def ended(session, host=HOST):
    job_id = wanted(session, host)
    jobs.cancel(session, job_id)
    return job_id


def claim(session, host=HOST, lease_s=LEASE_S):
    return callbacks.claim(session, host, lease_s=lease_s)


def test_a_callback_is_due_when_its_job_has_ended_and_not_before(sessions):
    with transaction(sessions) as session:
        job_id = wanted(session)
        assert (callbacks.due_hosts(session, most=9), claim(session)) == ([], None)
        [shard] = builders.fill(session, 4)
        leases.finish(session, shard, builders.outcomes_of(shard))
        assert callbacks.due_hosts(session, most=9) == [HOST]
        claimed = claim(session)
    assert (claimed.job_id, claimed.url, claimed.host, claimed.attempts) == (job_id, URL, HOST, 1)


def test_hosts_stand_apart_and_the_one_that_waits_longest_comes_first(sessions):
    with transaction(sessions) as session:
        ended(session, "slow.example.org")
        ended(session, "quick.example.org")
        assert callbacks.due_hosts(session, most=9) == ["slow.example.org", "quick.example.org"]
        assert callbacks.due_hosts(session, most=1) == ["slow.example.org"]
        assert claim(session, "slow.example.org") is not None
        assert callbacks.due_hosts(session, most=9) == ["quick.example.org"]


def test_a_job_keeps_the_callback_it_came_with(sessions):
    with transaction(sessions) as session:
        job_id = wanted(session)
        callbacks.add(session, job_id, "https://other.example.org/", host="other.example.org")
        assert callbacks.of_job(session, job_id).url == URL
        assert callbacks.of_job(session, builders.submit(session, 1)) is None


def test_what_was_sent_is_not_due_again(sessions):
    with transaction(sessions) as session:
        job_id = ended(session)
        assert callbacks.sent(session, claim(session, lease_s=OVER_S), status=204)
        assert (callbacks.due_hosts(session, most=9), claim(session)) == ([], None)
        told = callbacks.of_job(session, job_id)
    assert (told.state, told.attempts, told.last_status, told.error) == ("sent", 1, 204, None)
    assert told.finished_at_s is not None


def test_a_failed_attempt_is_due_after_its_pause_and_its_reason_kept(sessions):
    with transaction(sessions) as session:
        job_id = ended(session)
        callbacks.put_off(session, claim(session), pause_s=60.0, status=500, error="The receiver answered 500.")
        assert claim(session) is None
        waits = callbacks.of_job(session, job_id)
        assert (waits.state, waits.last_status, waits.error) == ("waiting", 500, "The receiver answered 500.")
        assert waits.next_at_s - database.clock(session) == pytest.approx(60.0, abs=5.0)
    with transaction(sessions) as session:
        session.execute(models.Callback.__table__.update().values(next_at_s=0.0))
        callbacks.give_up(session, claim(session), status=None, error="Nobody answered.")
        assert claim(session) is None
        lost = callbacks.of_job(session, job_id)
    assert (lost.state, lost.attempts, lost.last_status, lost.error) == ("given_up", 2, None, "Nobody answered.")


def test_a_sender_that_died_is_followed_by_another_and_cannot_speak_for_it(sessions):
    with transaction(sessions) as session:
        job_id = ended(session)
        dead = claim(session, lease_s=OVER_S)
        heir = claim(session)
        assert (heir.attempts, heir.fence) == (2, dead.fence + 1)
        assert not callbacks.give_up(session, dead, status=500, error="late")
        assert not callbacks.put_off(session, dead, pause_s=1.0, status=500, error="late")
        assert callbacks.sent(session, heir, status=200)
        assert not callbacks.sent(session, heir, status=200)
        assert callbacks.of_job(session, job_id).state == "sent"


def test_a_job_that_goes_on_has_its_next_end_told_too(sessions):
    with transaction(sessions) as session:
        job_id = ended(session)
        callbacks.sent(session, claim(session), status=200)
        jobs.retry(session, job_id, shard_size=4)
        again = callbacks.of_job(session, job_id)
        assert (again.state, again.attempts, again.finished_at_s) == ("waiting", 0, None)
        assert claim(session) is None, "it has not ended again"
        jobs.cancel(session, job_id)
        assert claim(session) is not None


def test_who_told_of_an_end_that_was_taken_back_does_not_silence_the_next(sessions):
    with transaction(sessions) as session:
        job_id = ended(session)
        early = claim(session)
        jobs.retry(session, job_id, shard_size=4)
        assert not callbacks.sent(session, early, status=200)
        jobs.cancel(session, job_id)
        assert claim(session).attempts == 1


def test_a_callback_goes_with_its_job(sessions):
    with transaction(sessions) as session:
        job_id = ended(session)
        for table in (models.Shard, models.Part):
            session.execute(delete(table).where(table.job_id == job_id))
        session.execute(delete(models.Job).where(models.Job.id == job_id))
        assert session.scalars(select(models.Callback.job_id)).all() == []


def send_all(url, told):
    """Send whatever is due, as a sender does."""
    sessions = database.connect(url)
    mine = []
    while True:
        with transaction(sessions) as session:
            claimed = claim(session)
        if claimed is None:
            break
        mine.append(claimed.job_id)
        with transaction(sessions) as session:
            assert callbacks.sent(session, claimed, status=200)
    told.put(mine)


def test_two_senders_never_hold_the_same_callback(sessions, database_url):
    with transaction(sessions) as session:
        ids = {ended(session) for _ in range(60)}
    told = PROCESSES.Queue()
    senders = [PROCESSES.Process(target=send_all, args=(database_url, told)) for _ in range(2)]
    for sender in senders:
        sender.start()
    sent = [job_id for _ in senders for job_id in told.get(timeout=60)]
    for sender in senders:
        sender.join(timeout=60)
    assert (len(sent), set(sent)) == (60, ids)


def test_a_callback_that_comes_after_its_job_has_ended_is_due_at_once(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 4)
        jobs.cancel(session, job_id)
        callbacks.add(session, job_id, URL, host=HOST)
        assert claim(session).job_id == job_id


def test_an_end_that_is_noted_twice_shortens_no_pause(sessions):
    with transaction(sessions) as session:
        job_id = wanted(session)
        jobs.cancel(session, job_id)
        callbacks.put_off(session, claim(session), pause_s=60.0, status=500, error="no")
        callbacks.become_due(session, [job_id])
        assert claim(session) is None
