from dataclasses import replace

from db import workers
from db.session import transaction

ADA = workers.Worker(
    name="ada",
    host="h",
    pid=7,
    role="classify",
    models=("cats",),
    device="cpu",
    state="ready",
    warm=("cats:1",),
)


def alive(session):
    return workers.list_alive(session, within_s=60)


def test_a_worker_is_alive_as_its_last_heartbeat_describes_it(sessions):
    with transaction(sessions) as session:
        workers.beat(session, ADA)
        (first,) = alive(session)
        workers.beat(session, replace(ADA, state="busy", warm=("cats:2",)))
        (second,) = alive(session)
    assert (first.state, first.models, first.warm) == ("ready", ("cats",), ("cats:1",))
    assert (second.state, second.warm) == ("busy", ("cats:2",))
    assert second.started_at_s == first.started_at_s <= first.heartbeat_at_s <= second.heartbeat_at_s


def test_a_worker_with_another_pid_has_started_anew(sessions):
    with transaction(sessions) as session:
        workers.beat(session, ADA)
        (first,) = alive(session)
    with transaction(sessions) as session:
        workers.beat(session, replace(ADA, pid=8))
        assert alive(session)[0].started_at_s > first.started_at_s


def test_a_worker_that_is_silent_or_left_is_not_alive(sessions):
    with transaction(sessions) as session:
        workers.beat(session, ADA)
        assert workers.list_alive(session, within_s=-1) == []
        workers.leave(session, ADA.name)
        assert alive(session) == []


def test_the_pace_of_each_worker_that_serves_a_model_is_known_once_it_has_worked(sessions):
    bob, cat = replace(ADA, name="bob", pid=8), replace(ADA, name="cat", pid=9, models=("dogs",))
    with transaction(sessions) as session:
        for worker in (replace(ADA, images_per_s={"cats": 12.5, "dogs": 3.0}), bob, cat):
            workers.beat(session, worker)
        assert sorted(workers.paces(session, "cats", within_s=60), key=str) == [12.5, None]
        assert workers.paces(session, "hens", within_s=60) == []
