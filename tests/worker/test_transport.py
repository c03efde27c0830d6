"""A worker reads messages of ours alone by every way to Redis, shows nobody what they hold, and takes no orders."""

import json
from types import SimpleNamespace

import celery
import pytest
from celery.worker.control import Panel
from celery.worker.request import create_request_cls
from redis import Redis

from worker import app, messages, transport
from worker.settings import Settings
from worker.tasks import intake

SIGNED = "https://pictures.example.org/1.jpg?X-Amz-Signature=secret"


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h:1/0", transport._Transport),
        ("rediss://h:1/0?ssl_cert_reqs=required", transport._Transport),
        ("redis+socket:///tmp/x.sock", transport._Transport),
        ("sentinel://h:1/0", transport._SentinelTransport),
    ],
    ids=["tcp", "tls", "socket", "sentinel"],
)
def test_a_worker_checks_by_whatever_way_it_reaches_redis(url: str, kind: type) -> None:
    worker = app.create_app(Settings(broker_url=url).resolved(), amqp=transport.Checking)
    assert worker.connection_for_read().get_transport_cls() is kind
    worker.close()


def test_a_worker_answers_questions_and_takes_no_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    transport.take_no_orders()
    assert set(Panel.data) == transport.ANSWERED
    assert not {"shutdown", "revoke", "pool_restart", "add_consumer"} & set(Panel.data)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [({}, "{...}"), ({"kwargsrepr": "job 7, 1 items"}, "job 7, 1 items")],
    ids=["without our code", "our client"],
)
def test_a_message_in_a_workers_hand_shows_its_short_text_and_no_reference(
    redis_url: str, shown: dict[str, str], expected: str
) -> None:
    worker = app.create_app(Settings(broker_url=redis_url).resolved(), amqp=transport.Checking)
    bare = celery.Celery(broker=redis_url, set_as_current=False)
    bare.send_task(messages.SUBMIT, queue="imagemill:intake", kwargs={"items": [SIGNED]}, **shown)
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as redis:
        # At the right end, where the next is taken.
        redis.rpush(f"{messages.KEY_PREFIX}{messages.INTAKE_QUEUE}", "not json", "{}")
    with worker.connection_for_read() as connection:
        message = connection.SimpleQueue(messages.INTAKE_QUEUE).get(timeout=30)
        request = create_request_cls(transport.Unshown, intake.submit, POOL, "here", None, app=worker)(
            message, app=worker, task=intake.submit, headers=message.headers, body=message.body
        )
        assert SIGNED in json.dumps(request._kwargs), "the task gets it"
        seen = (request.argsrepr, request.kwargsrepr, request.info(safe=False)["kwargs"], repr(request))
        assert seen[:3] == ("()", expected, expected)
        assert SIGNED not in repr(seen)
        message.ack()
    bare.close()
    worker.close()


def test_no_question_to_intake_shows_its_answer_in_events() -> None:
    for task in (intake.submit, intake.status, intake.results, intake.cancel, intake.label, intake.retrain):
        assert (task.Request, task.resultrepr_maxsize) == ("worker.transport:Unshown", 1)


#: what a request is handed over to, here by nobody
POOL = SimpleNamespace(apply_async=None)
