"""Who listens for a job hears of it once; who does not costs nothing; what is lost costs time alone."""

import threading
import time
import uuid
from collections.abc import Iterator

import celery
import pytest
from redis import Redis

from worker import app, notices
from worker.listening import Listening
from worker.messages import MAX_TOLD_BYTES, JobStatus, Notice, Result, listening_key
from worker.settings import Settings


@pytest.fixture
def mill(redis_url: str) -> Iterator[celery.Celery]:
    """The app of a worker."""
    opened = app.create_app(Settings(broker_url=redis_url).resolved())
    yield opened
    opened.close()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A connection of the one who listens."""
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as connection:
        yield connection


def notice(job_id: str, *, num_items: int = 1, reference: str = "s3://photos/1.jpg") -> Notice:
    counts = {"num_items": num_items, "num_succeeded": num_items, "num_failed": 0, "created_at_s": 1.5}
    status = JobStatus(job_id=job_id, model="cats", version="cats:1", state="succeeded", **counts)
    result = Result(position=0, key="k", reference=reference, label="cat", score=0.5, top_k=[["cat", 0.5]])
    return Notice(job_id=job_id, status=status, results=[result] * num_items)


def test_all_who_listen_hear_the_same_notice(mill: celery.Celery, redis: Redis) -> None:
    told = notice(str(uuid.uuid4()))
    listeners = [Listening(redis, told.job_id) for _ in range(2)]
    notices.tell(mill, [told])
    assert [listener.hear(30.0) for listener in listeners] == [told, told]
    assert listeners[0].hear(0.001) is None
    listeners[0].close()
    assert redis.xlen(listening_key(told.job_id)) == 0


def test_a_blocked_listener_wakes_at_the_notice(mill: celery.Celery, redis: Redis) -> None:
    told = notice(str(uuid.uuid4()))
    listening = Listening(redis, told.job_id)
    heard: list[Notice | None] = []
    waiting = threading.Thread(target=lambda: heard.append(listening.hear(60.0)))
    waiting.start()
    notices.Crier(mill).tell(iter([told]))
    waiting.join(60.0)
    assert heard == [told]


def test_a_notice_that_nobody_listens_for_leaves_nothing_and_is_not_heard_later(
    mill: celery.Celery, redis: Redis
) -> None:
    told = notice(str(uuid.uuid4()))
    notices.tell(mill, [told])
    assert not redis.exists(listening_key(told.job_id))
    assert Listening(redis, told.job_id).hear(0.001) is None


def test_a_stream_outlives_its_listeners_by_a_while_only(mill: celery.Celery, redis: Redis) -> None:
    job_id = str(uuid.uuid4())
    listening = Listening(redis, job_id)
    notices.tell(mill, [], asked=[job_id, "nobody-listens-for-this"])
    assert 0 < redis.ttl(listening_key(job_id)) <= notices.KEPT_S
    assert not redis.exists(listening_key("nobody-listens-for-this"))
    redis.delete(listening_key(job_id))
    assert listening.hear(0.001) is None
    assert redis.exists(listening_key(job_id)), "a broker that forgot the stream is told again"


def test_results_too_large_for_a_notice_are_left_out(mill: celery.Celery, redis: Redis) -> None:
    told = notice(str(uuid.uuid4()), num_items=50, reference="s3://photos/" + MAX_TOLD_BYTES // 50 * "x")
    listening = Listening(redis, told.job_id)
    notices.tell(mill, [told])
    heard = listening.hear(30.0)
    assert heard is not None
    assert heard.status == told.status
    assert heard.results is None


def test_a_broker_that_is_away_costs_the_teller_nothing_but_the_notice() -> None:
    away = app.create_app(Settings(broker_url="redis://127.0.0.1:1/0").resolved())
    crier = notices.Crier(away)
    started_s = time.monotonic()
    for _ in range(notices.MAX_WAITING + 10):
        crier.tell([notice(str(uuid.uuid4()))])
    assert time.monotonic() - started_s < 60.0
    away.close()
