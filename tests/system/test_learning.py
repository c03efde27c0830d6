"""A model that keeps itself current on real processes: labels by message, a real learn worker, real signals."""

import os
import signal
import time
from collections.abc import Callable

from db import registry, runs, session
from tests.mills import Mill, await_until
from tests.worker.schools import picture
from worker.learning_messages import LabelledImage

#: models of the shared stack that these tests teach
PETS = ("cat", "dog", "hen")


def teach(mill: Mill, model: str, num: int, *, prefix: str) -> None:
    """Send labels of real pictures as another service does."""
    images = []
    for number, label in enumerate(PETS):
        for seed in range(num):
            file = mill.images / f"{prefix}-{label}-{seed}.png"
            picture(label, 5000 + 1000 * number + seed).save(file)
            images.append(LabelledImage(reference=file.as_uri(), label=label, who="ada", source="test"))
    receipt = mill.client.label_items(images, model=model)
    assert (receipt.num_labels, receipt.refused) == (num * len(PETS), ())


def run_of(mill: Mill, run_id: int) -> runs.Run:
    with session.reading(mill.sessions) as reading:
        return runs.run(reading, run_id)


def await_run(mill: Mill, run_id: int, fact: Callable[[runs.Run], bool], what: str) -> runs.Run:
    await_until(lambda: fact(run_of(mill, run_id)), what)
    return run_of(mill, run_id)


def test_labels_by_message_become_a_verdict_by_a_real_worker_that_survives_being_killed(mill: Mill) -> None:
    teach(mill, "pets", 40, prefix="kill")
    asked = mill.client.retrain(model="pets", strategy="last_stage", reason="a system test")
    await_run(mill, asked.id, lambda run: run.step == "train", "training has begun")
    os.kill(mill.child_pid("learn"), signal.SIGKILL)
    ended = await_run(mill, asked.id, lambda run: run.finished_at_s is not None, "the run has ended")
    assert ended.state == "succeeded", (ended.error_message, (mill.stack.logs / "learn.log").read_text()[-3000:])
    assert ended.attempts == 2
    assert ended.verdict in ("promote", "hold", "underpowered", "reject")
    assert ended.report is not None
    status = mill.client.run_status(asked.id)
    assert (status.state, status.verdict, status.version) == ("succeeded", ended.verdict, ended.version)


def test_a_running_run_is_cancelled_within_seconds_and_the_champion_stays(mill: Mill) -> None:
    teach(mill, "pets", 40, prefix="cancel")
    with session.reading(mill.sessions) as reading:
        before = registry.serving(reading, "pets").version.name
    asked = mill.client.retrain(model="pets", strategy="all", reason="to be cancelled")
    await_run(mill, asked.id, lambda run: run.step == "train", "training has begun")
    cancelled_s = time.monotonic()
    with session.transaction(mill.sessions) as transaction:
        runs.cancel(transaction, asked.id)
    ended = await_run(mill, asked.id, lambda run: run.finished_at_s is not None, "the run has ended")
    assert ended.state == "cancelled"
    assert time.monotonic() - cancelled_s < 20.0
    with session.reading(mill.sessions) as reading:
        assert registry.serving(reading, "pets").version.name == before


def test_a_worker_that_is_told_to_stop_gives_its_run_back_and_the_next_one_goes_on(mill: Mill) -> None:
    asked = mill.client.retrain(model="pets", strategy="all", reason="to be given back")
    await_run(mill, asked.id, lambda run: run.step == "train", "training has begun")
    part = mill.part("learn")
    part.process.terminate()
    part.process.wait(60)
    given_back = run_of(mill, asked.id)
    assert (given_back.state, given_back.attempts) == ("queued", 0)
    mill.stack.restart(part)
    ended = await_run(mill, asked.id, lambda run: run.finished_at_s is not None, "the run has ended")
    assert ended.state == "succeeded", ended.error_message
