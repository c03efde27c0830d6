"""Takes the message in an intake child's hand. Gives answers to it and to the quick messages that wait behind it.

Knows nothing of SQL. Celery hands a child one message at a time; taken together, submissions share a transaction.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from redis.exceptions import RedisError

from worker import envelopes, intake, messages
from worker.messages import Notice, Receipt, Refusal, Reply

log = logging.getLogger(__name__)

#: Messages taken at once, at most.
MAX_TAKEN = 100
_JOB = frozenset({"job_id"})
#: What is answered in little time, with the fields it may have; any other message is left to Celery. What a submission
#: may have, intake says itself.
QUICK = {
    messages.SUBMIT: None,
    messages.STATUS: _JOB,
    messages.RESULTS: _JOB | {"after", "limit"},
    messages.CANCEL: _JOB,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A message to intake."""

    #: Under which the answer is stored.
    id: str
    task: str
    fields: dict[str, Any]
    #: Nobody reads the answer: who submitted listens for the job's notices instead.
    ignores_answer: bool
    #: What Flower may show of it.
    shown: str = "{...}"

    @property
    def listened_for(self) -> str | None:
        """The job whose notices the asker may be listening for."""
        listens = self.task == messages.STATUS or (self.task == messages.SUBMIT and self.ignores_answer)
        return str(self.fields.get("job_id")) if listens else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A question with its answer."""

    question: Question
    reply: Reply
    #: What those who listen for the job are to be told.
    notice: Notice | None = None


def take_waiting(app: Celery) -> list[Question]:
    """Take quick messages that wait in the queue, and put the others back where they were.

    One that is taken counts as acknowledged, as intake's are from the start: whoever asked asks again.
    """
    redis, queue = app.backend.client, f"{messages.KEY_PREFIX}{messages.INTAKE_QUEUE}"
    read: list[tuple[bytes, Question | None]] = []
    try:
        read = [(raw, _read(raw)) for raw in redis.rpop(queue, MAX_TAKEN) or ()]
        # The oldest is at the right end, and was taken first.
        others = [raw for raw, question in reversed(read) if question is None]
        if others:
            redis.rpush(queue, *others)
    except (RedisError, OSError) as away:
        log.warning("what waits behind this message is asked again: %s", away)
    return [question for _, question in read if question is not None]


def serve(desk: intake.Desk, questions: Sequence[Question]) -> list[Served]:
    """Answer questions in their order, but submissions first, together."""
    submissions = [question for question in questions if question.task == messages.SUBMIT]
    submitted = intake.submit_all(desk, [question.fields for question in submissions])
    others = [_look(desk, question) for question in questions if question.task != messages.SUBMIT]
    served = [_submitted(*one) for one in zip(submissions, submitted, strict=True)] + others
    by_id = {one.question.id: one for one in served}
    return [by_id[question.id] for question in questions]


def answer(app: Celery, served: Iterable[Served]) -> None:
    """Store answers as Celery stores a task's result, for whoever reads or awaits it."""
    backend = app.backend
    done: dict[str, Any] = {
        "status": "SUCCESS",
        "traceback": None,
        "children": [],
        "date_done": datetime.now(UTC).isoformat(),
    }
    try:
        with backend.client.pipeline(transaction=False) as pipe:
            for one in served:
                if not one.question.ignores_answer:
                    key, reply = backend.get_key_for_task(one.question.id), messages.reply_as_json(one.reply)
                    stored = backend.encode(done | {"result": reply, "task_id": one.question.id})
                    pipe.set(key, stored, ex=backend.expires)
                    pipe.publish(key, stored)
            pipe.execute()
    except (RedisError, OSError) as away:
        log.warning("answers are lost, and will be asked for again: %s", away)


def _look(desk: intake.Desk, question: Question) -> Served:
    fields = question.fields
    job_id = fields.get("job_id")
    if question.task == messages.STATUS:
        return Served(question=question, reply=intake.status(desk, job_id))
    if question.task == messages.RESULTS:
        after, limit = fields.get("after", -1), fields.get("limit", messages.MAX_PAGE_ITEMS)
        return Served(question=question, reply=intake.results(desk, job_id, after=after, limit=limit))
    reply = intake.cancel(desk, job_id)
    if isinstance(reply, messages.JobStatus) and reply.is_final:
        return Served(question=question, reply=reply, notice=Notice(job_id=reply.job_id, status=reply))
    return Served(question=question, reply=reply)


def _submitted(question: Question, submitted: intake.Submitted) -> Served:
    reply, notice = submitted.reply, None
    if question.ignores_answer and not submitted.is_new:
        job_id = str(question.fields.get("job_id"))
        notice = Notice(
            job_id=job_id,
            receipt=reply if isinstance(reply, Receipt) else None,
            refused=reply if isinstance(reply, Refusal) else None,
        )
    return Served(question=question, reply=reply, notice=notice)


def _read(raw: bytes) -> Question | None:
    """Read a message; None for one that is not quick, that asks for more than an answer, or that is none."""
    try:
        envelope = envelopes.read(raw, messages.INTAKE_QUEUE)
    except envelopes.NoMessage:
        return None  # the worker drops it when it comes to it
    headers, fields = envelope.headers, envelope.kwargs
    if envelope.task not in QUICK or envelope.args or headers.get("eta") or headers.get("expires"):
        return None
    known = QUICK[envelope.task]
    if known is not None and not fields.keys() <= known:
        return None
    if envelope.task == messages.SUBMIT:
        fields = envelopes.with_trace(fields, headers.get("traceparent"))
    return Question(
        id=headers["id"],
        task=envelope.task,
        fields=fields,
        ignores_answer=bool(headers.get("ignore_result")),
        shown=envelopes.shown(headers.get("kwargsrepr")),
    )
