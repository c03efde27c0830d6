"""A worker that stands still is ill within the time that health gives it; one that waits for Redis is well."""

import os
import signal
import time

from sqlalchemy import func, select

from db import models, session
from tests.mills import Mill, await_until
from worker.cli import parser, processes

#: seconds of silence that are forgiven here: a beat is due every two
WITHIN_S = 4.0
ROLES = ("intake", "classify", "learn", "upkeep")


def is_healthy(mill: Mill, role: str) -> bool:
    asked = parser.build().parse_args(["health", role, "--within", str(WITHIN_S)])
    return processes.health(asked, mill.settings) == 0


def last_beats(mill: Mill) -> dict[str, float]:
    """When each kind of worker beat last, by the ledger's clock."""
    with session.reading(mill.sessions) as reading:
        beats = select(models.Worker.role, func.max(models.Worker.heartbeat_at_s)).group_by(models.Worker.role)
        return dict(reading.execute(beats).all())


def test_a_child_that_stands_still_is_ill_and_one_that_goes_on_is_well(mill: Mill) -> None:
    child = mill.child_pid("upkeep")
    assert is_healthy(mill, "upkeep")
    os.kill(child, signal.SIGSTOP)
    try:
        stopped_s = time.monotonic()
        await_until(lambda: not is_healthy(mill, "upkeep"), "upkeep is ill")
        assert time.monotonic() - stopped_s < WITHIN_S + 2
        assert is_healthy(mill, "classify")
    finally:
        os.kill(child, signal.SIGCONT)
    await_until(lambda: is_healthy(mill, "upkeep"), "upkeep is well again")


def test_without_redis_every_worker_waits_and_is_well(mill: Mill) -> None:
    server = mill.part("redis").process
    server.send_signal(signal.SIGSTOP)
    try:
        away_s = max(last_beats(mill).values())
        await_until(
            lambda: all(beat > away_s + WITHIN_S for role, beat in last_beats(mill).items() if role in ROLES),
            "each has beaten for longer than health forgives",
        )
        assert all(is_healthy(mill, role) for role in ROLES)
    finally:
        server.send_signal(signal.SIGCONT)
    references = mill.write_images(2, prefix="healthy")
    assert len(mill.client.classify(references, model="tiny", timeout_s=60.0)) == 2
