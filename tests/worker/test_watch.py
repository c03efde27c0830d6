"""A watch stops what must stop, and makes room for serving without ever starving learning."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import runs, session, workers
from tests.db.builders import MODEL, submit
from tests.worker.schools import School, open_school
from worker import heartbeat, learner
from worker.learning.watch import Cancelled, Interrupted, Lost, Watch


@pytest.fixture
def school(tmp_path: Path, sessions: sessionmaker[Session]) -> Iterator[School]:
    with open_school(tmp_path / "mill", sessions) as opened:
        yield opened


def watched(school: School, **how: object) -> Watch:
    return school.watch(school.claim(school.ask().id), **how)


def test_a_watch_that_sees_nothing_lets_everything_go_on(school: School) -> None:
    watch = watched(school)
    watch.tend()
    watch.keep_going()
    assert watch.yielded_s == 0.0


def test_a_cancel_a_lost_lease_and_a_stopping_worker_each_have_a_name(school: School) -> None:
    watch = watched(school)
    with session.transaction(school.sessions) as transaction:
        runs.cancel(transaction, watch.run.id)
    watch.tend()
    with pytest.raises(Cancelled):
        watch.keep_going()
    with session.transaction(school.sessions) as transaction:
        runs.end(transaction, watch.run.id, watch.run.fence, state="cancelled")
    watch.tend()
    with pytest.raises(Lost):
        watch.keep_going()
    with pytest.raises(Interrupted):
        watched(school, is_stopping=lambda: True).keep_going()


def test_while_images_wait_a_run_sleeps_in_proportion_to_what_it_worked(school: School) -> None:
    watch = watched(school, is_serving_busy=lambda _: True)
    watch.tend()
    watch.keep_going()
    before_s = watch.yielded_s
    time.sleep(0.3)  # the work of a batch
    watch.keep_going()
    assert 0.2 <= watch.yielded_s - before_s <= 1.0


def test_a_sleeping_run_hears_of_a_cancel(school: School) -> None:
    asked: list[bool] = []

    def is_stopping() -> bool:
        asked.append(True)
        return len(asked) > 3

    watch = watched(school, is_serving_busy=lambda _: True, share=0.001, is_stopping=is_stopping)
    watch.tend()
    time.sleep(0.2)
    with pytest.raises(Interrupted):
        watch.keep_going()
    assert watch.yielded_s < 1.0


@pytest.mark.parametrize(
    ("device_id", "state", "is_waiting", "is_busy"),
    [
        ("gpu-1", "busy", False, True),
        ("gpu-1", "ready", True, True),
        ("gpu-1", "ready", False, False),
        ("gpu-2", "busy", True, False),
    ],
)
def test_serving_is_busy_where_it_shares_the_device_and_has_work(
    sessions: sessionmaker[Session], device_id: str, state: str, is_waiting: bool, is_busy: bool
) -> None:
    with session.transaction(sessions) as transaction:
        here = heartbeat.row("classify", models=(MODEL,), device_id=device_id, state=state, host="elsewhere")
        workers.beat(transaction, here)
        if is_waiting:
            submit(transaction, num_items=3)
        assert learner.is_serving_busy(transaction, device_id="gpu-1") is is_busy
