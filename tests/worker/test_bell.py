"""A bell names a shard and nothing else, on the queue of its model and priority."""

import json
import uuid
from functools import partial
from pathlib import Path

import celery
import pytest
from redis import Redis

from db.bells import Bell
from worker import app, bell, messages, ringing
from worker.settings import Settings


def test_bells_wait_in_the_queue_of_their_model_and_priority(redis_url: str) -> None:
    mill = app.create_app(Settings(broker_url=redis_url).resolved())
    ids = {"model": "cats", "job_id": uuid.uuid4(), "version_id": 3, "num_items": 40}
    for shard_id, priority in enumerate(("bulk", "bulk", "interactive"), start=7):
        bell.ring(mill, Bell(shard_id=shard_id, priority=priority, **ids), lambda number: f"cats:{number - 1}")
    bulk, interactive = (messages.classify_queue("cats", priority) for priority in ("bulk", "interactive"))
    assert bell.num_ringing(mill, [bulk, interactive, "classify.dogs.bulk"]) == {
        bulk: 2,
        interactive: 1,
        "classify.dogs.bulk": 0,
    }
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as redis:
        sent = json.loads(redis.lpop(f"{messages.KEY_PREFIX}{interactive}"))
    assert sent["headers"]["task"] == messages.CLASSIFY
    assert sent["headers"]["kwargsrepr"] == f"shard 9, job {ids['job_id']}, 40 items, cats:2"
    mill.close()


def test_a_bell_that_redis_does_not_take_fails_nothing_for_the_ledger_knows_that_work_waits(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mill = app.create_app(Settings(broker_url=f"redis+socket://{home}/nobody.sock").resolved())
    assert ringing.ring_all(partial(bell.ring_run, mill), [7, 8]) == []
    assert "no bell for run 7, the sweep rings again" in caplog.text
    assert "run 8" not in caplog.text, "where one is lost the next is not waited for as long"
    mill.close()


def test_the_app_is_never_the_hosts_current_one() -> None:
    before = celery.current_app._get_current_object()
    app.create_app(Settings().resolved()).close()
    assert celery.current_app._get_current_object() is before
