"""Workers that are killed, stopped or out of memory lose nothing, and record nothing twice."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kombu import Connection
from PIL import Image
from sqlalchemy import select

from db import models, session
from tests import builders
from tests.chaos import rows, trials
from tests.chaos.trials import Trial
from worker import messages

#: seconds that a worker may take to start on a busy machine, importing torch
START_S = 30.0
#: where a sitting may be struck, in its order
PLACES = ("before_claim", "after_claim", "after_infer", "before_commit", "after_commit_before_ack")


@pytest.mark.full
@pytest.mark.timeout(900)
def test_row_1_a_worker_that_is_killed_twenty_times_loses_nothing(trial: Trial) -> None:
    num_kills = 20
    for kill in range(num_kills):
        trial.submit(trial.slow(100))
        trial.arm("after_infer", "sleep 2")
        trial.await_reached("after_infer")
        worker = trial.mill.part("classify")
        # By turns: as an orphan, a child may finish what it has in hand; with its child, the lease must run out.
        trial.kill(worker, whole=bool(kill % 2))
        trial.until(lambda worker=worker: not trials.members(worker.process.pid), "no orphan was left")
    trial.drain(patience_s=300)
    rows.check(trial.row("1", f"SIGKILL of a worker, {num_kills} times, by turns with its child and without"))


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "num_workers"), [("2", 4), ("GitLab", 10)], ids=["row 2", "GitLab's test"])
def test_row_2_half_of_the_workers_killed_and_half_stopped_at_half_the_queue(
    home: Path, number: str, num_workers: int
) -> None:
    with trials.opened(home, processes=num_workers) as mill, trials.trial(mill) as trial:
        trial.submit(trial.slow(1000))
        trial.until(lambda: trial.num_recorded() >= 500, "half of the queue was done")
        workers = [part for part in mill.stack.parts if part.name.startswith("classify")]
        for worker in workers[::2]:
            trial.kill(worker, whole=True)
        for worker in workers[1::2]:
            trial.fault()
            worker.process.terminate()
        left = 1000 - trial.num_recorded()
        trial.drain(patience_s=240)
        fault = f"of {num_workers} workers half killed (SIGKILL) and half stopped (SIGTERM) at half of the queue"
        rows.check(trial.row(number, fault, note=f"{left} of 1000 jobs were left when the last was told to stop"))


@pytest.mark.full
def test_row_3_a_child_that_is_killed_in_the_middle_of_a_batch_is_replaced(trial: Trial) -> None:
    worker = trial.mill.part("classify")
    trial.arm("after_infer", "sleep 60")
    trial.submit(trial.slow(1))
    trial.await_reached("after_infer")
    [child] = trial.holders()
    trial.fault()
    os.kill(child, signal.SIGKILL)
    trial.drain()
    assert worker.process.poll() is None
    row = trial.row("3", "SIGKILL of a pool child in the middle of a batch", note="the worker itself lives on")
    rows.check(row)
    assert row.recovery_s[0] <= 15 + START_S


@pytest.mark.full
def test_row_4_an_image_that_kills_every_worker_is_given_up_and_its_neighbours_are_not(home: Path) -> None:
    with trials.opened(home, max_image_pixels=50_000_000) as mill, trials.trial(mill) as trial:
        poison = mill.images / "poison.png"
        # Large, so that whoever takes it is at it long enough to be found.
        poison.write_bytes(builders.encoded(Image.new("L", (6000, 6000)), "PNG"))
        good = trial.slow(50)
        trial.submit(good[:25])
        trial.submit([[poison.as_uri()]])
        trial.submit(good[25:])
        killed: set[int] = set()

        def is_given_up() -> bool:
            holder, error = _fate_of(trial, poison.as_uri())
            if holder is not None and holder not in killed:
                trial.fault()
                os.kill(holder, signal.SIGKILL)
                killed.add(holder)
            return error == "killed_worker"

        trial.until(is_given_up, "the image was given up")
        trial.drain()
        note = f"{len(killed)} workers died of the image before it was recorded as an error"
        rows.check(trial.row("4", "one image of 51 kills whoever takes it", note=note, num_errors=1))
        assert len(killed) == mill.settings.max_attempts


def _fate_of(trial: Trial, reference: str) -> tuple[int | None, str | None]:
    """Give the process that holds the image, and the error recorded for it."""
    with session.reading(trial.mill.sessions) as reading:
        held = select(models.Shard).where(models.Shard.state == "claimed")
        owners = [one.lease_owner for one in reading.scalars(held) if reference in str(one.items)]
        error = reading.scalar(select(models.Outcome.error_kind).where(models.Outcome.reference == reference))
    return int(owners[0].rpartition(":")[2]) if owners else None, error


def test_row_5_a_task_without_memory_costs_its_item_and_no_process(trial: Trial) -> None:
    worker, child = trial.mill.part("classify"), trial.mill.child_pid("classify")
    for _ in range(trial.mill.settings.max_attempts):
        trial.arm("after_claim", "exhaust")
        trial.fault()
        if not trial.attempted:
            trial.submit(trial.slow(1))
        trial.await_reached("after_claim")
    trial.drain()
    fault = f"MemoryError of a task, {trial.mill.settings.max_attempts} times"
    rows.check(trial.row("5", fault, note="recorded as an error; no process ended", num_errors=1))
    assert worker.process.poll() is None
    assert trial.mill.child_pid("classify") == child
    assert not trial.restarts


@pytest.mark.full
def test_row_13_work_that_outlives_the_visibility_timeout_is_done_once(home: Path) -> None:
    with trials.opened(home, processes=2) as mill, trials.trial(mill) as trial:
        absorbed = trial.num_absorbed()
        with _redelivering(mill.settings.broker_url, after_s=5):
            for job in trial.slow(5):
                trial.arm("after_claim", "sleep 12")
                trial.submit([job])
                trial.wait(3)
            trial.drain()
        redelivered = trial.num_absorbed() - absorbed
        fault = "visibility timeout of 5 s, work of 12 s, two workers"
        rows.check(trial.row("13", fault, note=f"{redelivered} messages came again and found nothing to claim"))
        assert redelivered > 0


@contextmanager
def _redelivering(broker_url: str, *, after_s: int) -> Iterator[None]:
    """Be one more client of the broker, whose visibility timeout is shorter than all others': the shortest wins."""
    done = threading.Event()
    options = {**messages.transport_options(), "visibility_timeout": after_s}

    def restore() -> None:
        with Connection(broker_url, transport_options=options) as connection:
            while not done.wait(1):
                connection.default_channel.qos.restore_visible(num=100, interval=1)

    thread = threading.Thread(target=restore, name="restorer")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.full
def test_row_15_what_docker_stop_kills_comes_back_with_its_lease(trial: Trial) -> None:
    worker = trial.mill.part("classify")
    trial.arm("after_infer", "sleep 60")
    trial.submit(trial.slow(1))
    trial.await_reached("after_infer")
    worker.process.terminate()
    trial.wait(10)
    trial.kill(worker, whole=True)
    trial.drain()
    row = trial.row("15", "SIGTERM, and SIGKILL 10 s later, in work of 60 s", note=_lease(trial))
    rows.check(row)
    assert row.recovery_s[0] <= trial.mill.settings.lease_s + trial.mill.settings.sweep_s + START_S


def _lease(trial: Trial) -> str:
    settings = trial.mill.settings
    return f"lease {settings.lease_s:.0f} s, sweep {settings.sweep_s:.0f} s; the rest is the worker's start"


@pytest.mark.timeout(900)
def test_row_17_work_that_was_recorded_and_not_acknowledged_is_not_done_again(trial: Trial, *, is_full: bool) -> None:
    num_kills = 50 if is_full else 1
    absorbed = trial.num_absorbed()
    for _ in range(num_kills):
        trial.arm("after_commit_before_ack", "kill")
        trial.submit(trial.slow(1))
        trial.await_reached("after_commit_before_ack")
        trial.fault()
    trial.drain()
    trial.until(lambda: trial.num_absorbed() > absorbed, "the message came again")
    note = f"{trial.num_absorbed() - absorbed} messages came again and found nothing to claim"
    fault = f"SIGKILL after the commit and before the acknowledgement, {_times(num_kills)}"
    row = trial.row("17", fault, note=note)
    rows.check(row)
    assert row.executions == 1.0


@pytest.mark.full
def test_a_worker_killed_at_any_place_loses_nothing(trial: Trial) -> None:
    for place in PLACES:
        trial.arm(place, "kill")
        trial.submit(trial.slow(3))
        trial.await_reached(place)
        trial.fault()
    trial.drain()
    rows.check(trial.row("places", f"SIGKILL of a child at each of {', '.join(PLACES)}"))


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def test_an_intake_killed_before_it_answers_has_the_job_once(trial: Trial) -> None:
    trial.arm("after_accept_before_bell", "kill")
    trial.submit(trial.slow(3))
    trial.await_reached("after_accept_before_bell")
    trial.fault()
    trial.drain()
    fault = "SIGKILL of intake after it has recorded a job, before its bell and its answer"
    rows.check(trial.row("intake", fault, note="the caller asked again with the same id"))
