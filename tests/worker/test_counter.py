"""What waits behind the message in hand is answered with it; what is not quick is left to Celery, in its order."""

import inspect
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import celery
import pytest
from redis import Redis
from sqlalchemy.orm import Session, sessionmaker

from db import bells, registry
from tests.worker import builders
from worker import app, counter, intake, messages
from worker.client import Client
from worker.counter import Question
from worker.messages import JobStatus, Receipt, Refusal
from worker.settings import Settings
from worker.tasks import intake as intake_tasks

Sessions = sessionmaker[Session]


@pytest.fixture(autouse=True)
def _version(version: registry.Version) -> None:
    """Something serves."""


@pytest.fixture
def mill(redis_url: str) -> Iterator[celery.Celery]:
    """The app of an intake worker."""
    opened = app.create_app(Settings(broker_url=redis_url).resolved())
    yield opened
    opened.close()


def question(task: str, *, ignores_answer: bool = False, **fields: object) -> Question:
    return Question(id=str(uuid.uuid4()), task=task, fields=fields, ignores_answer=ignores_answer)


def submission(**fields: object) -> Question:
    ignores = bool(fields.pop("ignores_answer", False))
    return question(messages.SUBMIT, ignores_answer=ignores, **builders.wire(**fields))


def send(mill: celery.Celery, task: str, **how: object) -> str:
    return mill.send_task(task, kwargs={"job_id": "x"}, queue=messages.INTAKE_QUEUE, **how).id


def test_quick_messages_are_taken_and_the_others_wait_as_before(mill: celery.Celery, redis_url: str) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    quick = [send(mill, messages.SUBMIT, ignore_result=False)]
    left = [
        send(mill, messages.LABELS),
        send(mill, messages.STATUS, expires=60),
        send(mill, messages.STATUS, eta=later),
    ]
    quick.append(send(mill, messages.STATUS, ignore_result=True))
    left.append(send(mill, messages.RETRAIN))
    taken = counter.take_waiting(mill)
    assert [(one.id, one.ignores_answer) for one in taken] == [(quick[0], False), (quick[1], True)]
    assert all(one.fields == {"job_id": "x"} for one in taken)
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as redis:
        waiting = redis.lrange(f"{messages.KEY_PREFIX}{messages.INTAKE_QUEUE}", 0, -1)
    assert [json.loads(raw)["headers"]["id"] for raw in reversed(waiting)] == left
    assert counter.take_waiting(mill) == []


def test_a_redis_that_goes_away_between_two_messages_fails_neither(home: Path) -> None:
    mill = app.create_app(Settings(broker_url=f"redis+socket://{home}/nobody.sock").resolved())
    assert counter.take_waiting(mill) == []
    asked = counter.Served(question=question(messages.STATUS), reply=Refusal(kind="unknown_job", message="None such."))
    counter.answer(mill, [asked])
    mill.close()


def test_arguments_without_names_and_unknown_ones_are_left_to_celery(mill: celery.Celery) -> None:
    for how in ({"args": ["x"]}, {"kwargs": {"job_id": "x", "jobid": "y"}}):
        mill.send_task(messages.STATUS, queue=messages.INTAKE_QUEUE, **how)
    assert counter.take_waiting(mill) == []


@pytest.mark.parametrize(
    "task", [intake_tasks.status, intake_tasks.results, intake_tasks.cancel], ids=("status", "results", "cancel")
)
def test_a_tasks_arguments_may_come_without_names_and_unknown_ones_are_refused(task: celery.Task) -> None:
    assert inspect.signature(task.run).bind("x").arguments == {"job_id": "x"}
    with pytest.raises(TypeError):
        inspect.signature(task.run).bind(jobid="x")


def test_a_message_that_cannot_be_read_is_left_to_celery(mill: celery.Celery, redis_url: str) -> None:
    queue = f"{messages.KEY_PREFIX}{messages.INTAKE_QUEUE}"
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as redis:
        redis.lpush(queue, b"no json", b"[]", b'{"headers": {}}')
        assert counter.take_waiting(mill) == []
        assert redis.lrange(queue, 0, -1) == [b'{"headers": {}}', b"[]", b"no json"]


def test_submissions_that_come_together_are_each_answered_as_alone(sessions: Sessions, tmp_path: Path) -> None:
    rung: list[bells.Bell] = []
    desk = builders.desk(sessions, tmp_path, ring=rung.append)
    first = submission()
    asked = [
        first,
        submission(references=[f"s3://photos/{n}.jpg" for n in range(9)]),
        question(messages.STATUS, job_id=first.fields["job_id"]),
        submission(model="nobody"),
        submission(references=["s3://photos/nul-\0.jpg"]),
        submission(version="latest"),
        submission(references=["s3://photos/2.jpg"]),
        Question(id="again", task=messages.SUBMIT, fields=first.fields, ignores_answer=False),
        question(messages.SUBMIT, job_id="no uuid"),
    ]
    replies = [one.reply for one in counter.serve(desk, asked)]
    kinds = [reply.kind if isinstance(reply, Refusal) else type(reply) for reply in replies]
    assert kinds == [*(Receipt, Receipt, JobStatus, "unknown_model", "invalid", Receipt, Receipt, Receipt, "invalid")]
    assert all(reply.state == "accepted" for reply in replies if isinstance(reply, Receipt | JobStatus))
    # One bell for the two small ones of a kind, one for what follows `latest`, three for the large job's shards.
    assert sorted(bell.num_items for bell in rung) == [1, 1, 1, 4, 4]
    assert len(builders.shards(sessions)) == 6
    assert all(shard.rung_at_s for shard in builders.shards(sessions))


def test_small_jobs_ring_once_for_as_many_as_make_a_shard(sessions: Sessions, tmp_path: Path) -> None:
    rung: list[bells.Bell] = []
    desk = builders.desk(sessions, tmp_path, ring=rung.append)
    replies = intake.submit_all(desk, [builders.wire() for _ in range(10)])
    assert all(one.is_new for one in replies)
    assert len(rung) == 3


def test_who_ignores_the_answer_is_told_of_what_is_not_new(sessions: Sessions, tmp_path: Path) -> None:
    desk = builders.desk(sessions, tmp_path)
    new, refused = submission(ignores_answer=True), submission(ignores_answer=True, model="nobody")
    [accepted, no] = counter.serve(desk, [new, refused])
    assert accepted.notice is None, "its end is still to come"
    assert no.notice is not None
    assert no.notice.refused is not None
    assert no.notice.refused.kind == "unknown_model"
    [again] = counter.serve(desk, [new])
    assert again.notice is not None
    assert again.notice.receipt == accepted.reply
    [cancelled] = counter.serve(desk, [question(messages.CANCEL, job_id=new.fields["job_id"])])
    assert cancelled.notice is not None
    assert cancelled.notice.status == cancelled.reply


def test_an_answer_is_stored_where_any_producer_reads_it(
    sessions: Sessions, tmp_path: Path, mill: celery.Celery, redis_url: str
) -> None:
    asked, ignored = submission(), submission(ignores_answer=True)
    counter.answer(mill, counter.serve(builders.desk(sessions, tmp_path), [asked, ignored]))
    told = mill.AsyncResult(asked.id).get(timeout=30)
    assert told["ok"]["job_id"] == asked.fields["job_id"]
    with Client(redis_url) as client:
        keys = [client._replies.get_key_for_task(one.id) for one in (asked, ignored)]
        assert [client._replies.client.exists(key) for key in keys] == [1, 0]
