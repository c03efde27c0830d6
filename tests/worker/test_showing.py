"""What is answered behind the message in hand shows in Flower as the rest does: one message, however many they are."""

import base64
import json
from collections.abc import Iterator

import celery
import pytest
from redis import Redis

from worker import app, messages
from worker.settings import Settings
from worker.showing import Answered, Show


@pytest.fixture
def mill(redis_url: str) -> Iterator[celery.Celery]:
    opened = app.create_app(Settings(broker_url=redis_url).resolved())
    yield opened
    opened.close()


def test_many_answers_are_told_at_once_and_read_as_tasks_that_succeeded(mill: celery.Celery, redis_url: str) -> None:
    answered = [Answered(id=str(n), task=messages.SUBMIT, shown=f"job {n}, 1 items from 0") for n in range(200)]
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as redis, redis.pubsub() as watching:
        watching.psubscribe(f"{messages.KEY_PREFIX}/0.celeryev/*")
        assert watching.get_message(timeout=10)["type"] == "psubscribe"
        show = Show(mill, "intake@here")
        show.tell(answered[:100], began_s=1000.0, ended_s=1000.5)
        show.tell(answered[100:], began_s=1000.0, ended_s=1000.5)
        heard = [watching.get_message(timeout=10) for _ in range(2)]
    state = mill.events.State()
    for message in heard:
        for event in json.loads(base64.b64decode(json.loads(message["data"])["body"])):
            state.event(event | {"local_received": event["timestamp"]})
    tasks = dict(state.tasks.items())
    assert len(tasks) == 200
    one = tasks["7"]
    assert (one.name, one.state, one.kwargs, one.args) == (messages.SUBMIT, "SUCCESS", "job 7, 1 items from 0", "()")
    assert one.worker.hostname == "intake@here"
    assert one.runtime == pytest.approx(0.5)


def test_a_redis_that_is_away_costs_its_watchers_the_events_and_nobody_an_answer(
    mill: celery.Celery, caplog: pytest.LogCaptureFixture
) -> None:
    away = app.create_app(Settings(broker_url="redis://127.0.0.1:9/0").resolved())
    Show(away, "intake@here").tell([Answered(id="1", task=messages.STATUS, shown="job 1")], began_s=0.0, ended_s=1.0)
    assert "Flower misses 1 messages" in caplog.text
    away.close()
