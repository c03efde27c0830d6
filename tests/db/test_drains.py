"""What is asked of a worker is seen by its heartbeat, by whoever lists workers, and forgotten when it starts anew."""

from db import drains, workers
from db.session import reading, transaction

PLACE = ("north", 7)


def worker(**columns):
    usual = {
        "name": "classify@north:8", "host": "north", "pid": 8, "parent_pid": 7, "role": "classify",
        "models": ("cats",), "device": "cpu", "state": "ready",
    }  # fmt: skip
    return workers.Worker(**(usual | columns))


def beat(sessions, **columns):
    with transaction(sessions) as session:
        return workers.beat(session, worker(**columns))


def ask(sessions, *places):
    with transaction(sessions) as session:
        drains.ask(session, places, who="ada", reason="a deploy")


def alive(sessions):
    with reading(sessions) as session:
        return {one.name: one for one in workers.list_alive(session, within_s=60.0)}


def test_a_heartbeat_is_told_that_its_worker_is_asked_to_drain(sessions):
    assert beat(sessions) is False
    ask(sessions, PLACE)
    assert beat(sessions) is True
    # A child that took the place of one that died is asked, too; another worker of the host is not.
    assert beat(sessions, name="classify@north:9", pid=9) is True
    assert beat(sessions, name="learn@north:19", pid=19, parent_pid=18) is False


def test_a_drained_worker_is_listed_as_such_and_its_pace_counts_no_more(sessions):
    beat(sessions, images_per_s={"cats": 50.0})
    with reading(sessions) as session:
        assert workers.paces(session, "cats", within_s=60.0) == [50.0]
    ask(sessions, PLACE)
    with transaction(sessions) as session:
        drains.note_drained(session, PLACE)
        drains.note_drained(session, PLACE)
        assert workers.paces(session, "cats", within_s=60.0) == []
    drain = alive(sessions)["classify@north:8"].drain
    assert (drain.who, drain.reason, drain.drained_at_s >= drain.at_s) == ("ada", "a deploy", True)


def test_a_second_request_changes_nothing_and_one_that_is_taken_back_is_gone(sessions):
    ask(sessions, PLACE)
    with transaction(sessions) as session:
        first = drains.asked(session, PLACE)
        drains.ask(session, [PLACE], who="bob", reason="")
        assert drains.asked(session, PLACE) == first
        drains.take_back(session, [PLACE, ("south", 7)])
        assert drains.asked(session, PLACE) is None
    assert beat(sessions) is False
