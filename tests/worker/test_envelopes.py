"""What Celery and its producers write is read; of anything else, the reason is told and nothing of the content."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import celery
import pytest
from redis import Redis

from db.bells import Bell
from worker import app, bell, envelopes, messages, schedule
from worker.client import Client, NotAcknowledged
from worker.settings import Settings


def written(redis_url: str, queue: str) -> bytes:
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as redis:
        [raw] = redis.lrange(f"{messages.KEY_PREFIX}{queue}", 0, -1)
    return raw


def test_what_the_client_writes_is_read(redis_url: str) -> None:
    with Client(redis_url, timeout_s=0.1) as client, pytest.raises(NotAcknowledged):
        client.submit(["s3://photos/1.jpg"])
    envelope = envelopes.read(written(redis_url, messages.INTAKE_QUEUE), messages.INTAKE_QUEUE)
    assert (envelope.task, envelope.args) == (messages.SUBMIT, [])
    assert messages.Submission.parse(envelope.kwargs).items[0].reference == "s3://photos/1.jpg"


def test_what_a_producer_without_our_code_writes_is_read(redis_url: str) -> None:
    bare = celery.Celery(broker=redis_url, set_as_current=False)
    job_id = uuid.uuid4()
    bare.send_task(messages.STATUS, queue="imagemill:intake", kwargs={"job_id": job_id}, priority=0)
    bare.close()
    assert envelopes.read(written(redis_url, messages.INTAKE_QUEUE), messages.INTAKE_QUEUE).kwargs == {"job_id": job_id}


def test_what_beat_and_a_retry_write_is_read(redis_url: str) -> None:
    settings = Settings(broker_url=redis_url).resolved()
    beat = schedule.create_beat_app(settings)
    entry = beat.conf.beat_schedule["sweep"]
    beat.send_task(entry["task"], **entry["options"], eta=datetime.now(UTC) + timedelta(hours=1), retries=2)
    beat.close()
    assert envelopes.read(written(redis_url, messages.UPKEEP_QUEUE), messages.UPKEEP_QUEUE).task == messages.SWEEP


def test_bells_are_read_each_from_its_queue(redis_url: str) -> None:
    settings = Settings(broker_url=redis_url).resolved()
    ringing = app.create_app(settings)
    shard = Bell(shard_id=7, job_id=uuid.uuid4(), model="my.cats", priority="bulk", version_id=1, num_items=3)
    bell.ring(ringing, shard)
    queue = messages.classify_queue("my.cats", "bulk")
    assert envelopes.read(written(redis_url, queue), queue).kwargs == {"shard": 7}
    bell.ring_run(ringing, 3)
    assert envelopes.read(written(redis_url, messages.LEARN_QUEUE), messages.LEARN_QUEUE).kwargs == {"run": 3}
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as redis:
        redis.delete(f"{messages.KEY_PREFIX}{messages.LEARN_QUEUE}")
    bell.ring_drift(ringing, "my.cats")
    assert envelopes.read(written(redis_url, messages.LEARN_QUEUE), messages.LEARN_QUEUE).kwargs == {"model": "my.cats"}
    ringing.close()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"secret, and not json", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b"[]", "it is no object"),
        (b"{}", "it lacks headers or properties"),
        (b'{"headers": {"task": "secret", "id": 7}}', "its `id` makes no sense"),
    ],
    ids=["text", "deep", "list", "empty", "number"],
)
def test_what_is_no_message_is_told_by_its_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(envelopes.NoMessage) as wrong:
        envelopes.read(raw, messages.INTAKE_QUEUE)
    assert str(wrong.value) == reason


def test_another_task_and_another_content_are_no_message(redis_url: str) -> None:
    with Client(redis_url, timeout_s=0.1) as client, pytest.raises(NotAcknowledged):
        client.submit(["s3://photos/secret.jpg"])
    whole = json.loads(written(redis_url, messages.INTAKE_QUEUE))
    for changed, reason in (
        ({"headers": whole["headers"] | {"task": "celery.backend_cleanup"}}, "it names no task of this queue"),
        ({"headers": whole["headers"] | {"task": messages.CLASSIFY}}, "it names no task of this queue"),
        ({"headers": whole["headers"] | {"eta": "2026-13-99"}}, "its `eta` or `expires` makes no sense"),
        ({"headers": whole["headers"] | {"compression": "gzip"}}, "its `compression` makes no sense"),
        ({"content-type": "application/x-python-serialize"}, "its content is no JSON in base64"),
        ({"body": "????"}, "its content is no JSON in base64"),
        ({"body": "W10="}, "its content is not a task's arguments"),
    ):
        with pytest.raises(envelopes.NoMessage) as wrong:
            envelopes.read(json.dumps(whole | changed).encode(), messages.INTAKE_QUEUE)
        assert str(wrong.value) == reason
