"""Takes submissions and questions. Gives receipts, statuses and results, after the ledger has what they promise.

Knows nothing of Celery: bells go out through the `ring` it is handed, after the commit that justifies them.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import ParamSpec, TypeGuard, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from db import (
    bells,
    callbacks,
    deliveries,
    errors,
    jobs,
    leases,
    ledger,
    outcomes,
    pauses,
    registry,
    session,
    shards,
    workers,
)
from pipeline import failpoints
from worker import inline, measures, messages, pausing, receivers, ringing, sizing, traces, troubles
from worker.messages import Refusal, Reply
from worker.meter import Meter
from worker.quotas import Overloaded, Quotas
from worker.traces import Tracer

#: Tells the classify queue that a shard waits.
Ring = Callable[[bells.Bell], None]

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")

#: Shards rung for before a submit is answered; sweeps ring for the rest of a large job.
MAX_BELLS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What intake works with."""

    sessions: sessionmaker[Session]
    ring: Ring
    #: fsspec URL under which images that came inside a message are kept.
    inline_store: str
    #: Bytes of one image inside a message.
    max_inline_bytes: int
    #: Items in one shard; 0 takes what a worker does in a second.
    shard_size: int
    #: How much may wait.
    quotas: Quotas = field(default_factory=Quotas)
    #: Roots of the URLs that may be told of a job's end; without one nobody is.
    callback_roots: tuple[str, ...] = ()
    #: What was counted; the heartbeat writes it down.
    meter: Meter = field(default_factory=Meter)
    #: Told how each submission went, where traces are kept.
    tracer: Tracer | None = None

    @property
    def full_bell(self) -> int:
        """Items in small jobs that one bell stands for."""
        return self.shard_size or sizing.UNKNOWN


def refusing(answer: Callable[Asked, Answer]) -> Callable[Asked, Answer | Refusal]:
    """Turn what the asker or the ledger got wrong into a refusal, which travels back as a sentence."""

    @wraps(answer)
    def answering(*args: Asked.args, **kwargs: Asked.kwargs) -> Answer | Refusal:
        try:
            return answer(*args, **kwargs)
        except messages.MessageInvalid as wrong:
            return Refusal(kind="invalid", message=str(wrong))
        except errors.LedgerError as refused:
            return refusal_of(refused)
        except receivers.CallbackRefused as refused:
            return refusal_of(refused)
        except Overloaded as full:
            return replace(refusal_of(full), retry_after_s=full.retry_after_s)

    return answering


def refusal_of(wrong: Exception) -> Refusal:
    """Give an error as a refusal: its name as the kind, and its sentence."""
    kind = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in type(wrong).__name__)
    return Refusal(kind=kind.lstrip("_"), message=str(wrong))


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of a submission."""

    reply: Reply
    #: It is a small job that was accepted just now: its end is still to come.
    is_new: bool = False


def submit(desk: Desk, wire: object) -> Reply:
    """Record a job or a part of one, ring for it once it is whole, and acknowledge."""
    return submit_all(desk, [wire])[0].reply


def submit_all(desk: Desk, wires: Sequence[object]) -> list[Submitted]:
    """Record jobs or parts of jobs and acknowledge each; small jobs that are new share one transaction."""
    began_s = time.time()
    read = [_read(desk, wire) for wire in wires]
    small = [one for one in read if isinstance(one, messages.Submission) and _is_small(one, desk.full_bell)]
    accepted = _accept(desk, small)
    submitted = [accepted.get(id(one)) or Submitted(reply=_recorded(desk, one)) for one in read]
    _count(desk.meter, read, submitted)
    if desk.tracer:
        _trace(desk.tracer, read, submitted, began_s)
    return submitted


def _count(meter: Meter, read: Sequence[messages.Submission | Refusal], submitted: Sequence[Submitted]) -> None:
    for asked, became in zip(read, submitted, strict=True):
        if isinstance(became.reply, Refusal):
            meter.add(measures.REFUSED, 1, became.reply.kind)
        elif isinstance(asked, messages.Submission):
            meter.add(measures.SUBMITTED, len(asked.items), asked.model, asked.priority)


def _trace(
    tracer: Tracer, read: Sequence[messages.Submission | Refusal], submitted: Sequence[Submitted], began_s: float
) -> None:
    """Tell each submission as a span; those that were answered together took the same time."""
    ended_s = time.time()
    for asked, became in zip(read, submitted, strict=True):
        if isinstance(asked, Refusal):
            continue  # it names no job
        trace = traces.of_job(uuid.UUID(asked.job_id), asked.traceparent)
        refused = became.reply if isinstance(became.reply, Refusal) else None
        if trace.is_kept(tracer.share):
            facts: traces.Facts = {
                "imagemill.job": asked.job_id,
                "imagemill.model": asked.model,
                "imagemill.items": len(asked.items),
            }
            tracer.tell(
                traces.Span(
                    name="intake",
                    trace_id=trace.trace_id,
                    span_id=traces.new_span_id(),
                    parent_id=trace.root_id,
                    began_s=began_s,
                    ended_s=ended_s,
                    facts=facts,
                    error=refused.kind if refused else None,
                )
            )


def _recorded(desk: Desk, read: messages.Submission | Refusal) -> Reply:
    return read if isinstance(read, Refusal) else _record(desk, read)


@refusing
def _read(desk: Desk, wire: object) -> messages.Submission:
    submission = messages.Submission.parse(wire)
    if submission.callback is not None:
        receivers.host_of(submission.callback, desk.callback_roots)
    return replace(submission, items=_keep_inline(desk, submission))


def _is_small(submission: messages.Submission, shard_size: int) -> bool:
    return len(submission.items) == submission.num_items <= shard_size


def _accept(desk: Desk, small: Sequence[messages.Submission]) -> dict[int, Submitted]:
    """Record small jobs together and ring for them; gives, by `id`, the receipts of those that are new and right.

    What is left out is recorded on its own, and told there what is wrong with it.
    """
    if not small:
        return {}
    by_job = {uuid.UUID(submission.job_id): submission for submission in small}
    try:
        with session.transaction(desk.sessions) as transaction:
            waiting = deliveries.receive(transaction, list(_deliveries(desk, transaction, by_job.values())))
            for waits in waiting:
                _keep_callback(desk, transaction, waits.job_id, by_job[waits.job_id])
    except (errors.LedgerError, SQLAlchemyError):
        return {}
    failpoints.reach("after_accept_before_bell")
    ringing.ring_all(desk.ring, _full_bells(waiting, desk.full_bell))
    return {id(by_job[waits.job_id]): _accepted(by_job[waits.job_id]) for waits in waiting}


def _deliveries(
    desk: Desk, transaction: Session, small: Iterable[messages.Submission]
) -> Iterator[deliveries.Delivery]:
    room = desk.quotas.room(transaction)
    versions: dict[tuple[str, str | None], int | None] = {}
    for submission in small:
        asked = (submission.model, submission.version)
        try:
            if asked not in versions:
                versions[asked] = _pin_new(transaction, submission)
            job, items = _header(transaction, submission, versions[asked]), _items(submission)
            ledger.check_part(job, items, 0)
            # One that is known already takes room that it does not need; whoever is left out for it is looked at again.
            room.take(submission)
        except (errors.LedgerError, Overloaded):
            continue
        yield deliveries.Delivery(job=job, items=items, digest=submission.digest())


def _full_bells(waiting: Sequence[bells.Bell], shard_size: int) -> Iterator[bells.Bell]:
    """Choose one bell for as many small shards of a kind as make a full one: whoever hears it takes them all."""
    room: dict[tuple[str, int | None, str], int] = {}
    for waits in waiting:
        kind = (waits.model, waits.version_id, waits.priority)
        room[kind] = room.get(kind, 0) - waits.num_items
        if room[kind] < 0:
            room[kind] = shard_size - waits.num_items
            yield waits


def _accepted(submission: messages.Submission) -> Submitted:
    num = submission.num_items
    receipt = messages.Receipt(job_id=submission.job_id, state="accepted", num_received=num, num_items=num)
    return Submitted(reply=receipt, is_new=True)


@refusing
def _record(desk: Desk, submission: messages.Submission) -> Reply:
    with session.transaction(desk.sessions) as transaction:
        receipt = _receive(desk, transaction, submission)
        _keep_callback(desk, transaction, receipt.job_id, submission)
        waiting = bells.take(transaction, receipt.job_id, limit=MAX_BELLS) if receipt.newly_accepted else []
    failpoints.reach("after_accept_before_bell")
    ringing.ring_all(desk.ring, waiting)
    return messages.Receipt(
        job_id=str(receipt.job_id),
        state=receipt.state,
        num_received=receipt.num_received,
        num_items=receipt.num_items,
    )


@refusing
def status(desk: Desk, job_id: object) -> Reply:
    """Tell how far a job is, and what stands in its way."""
    with session.reading(desk.sessions) as reading:
        return job_status(reading, messages.parse_job_id(job_id))


@refusing
def results(desk: Desk, job_id: object, *, after: object = -1, limit: object = messages.MAX_PAGE_ITEMS) -> Reply:
    """Give the outcomes recorded behind position `after`, at most `limit`."""
    if not _is_whole(after, -1, messages.MAX_JOB_ITEMS) or not _is_whole(limit, 1, messages.MAX_PAGE_ITEMS):
        return Refusal(
            kind="invalid", message=f"`after` must be a position and `limit` 1 to {messages.MAX_PAGE_ITEMS}."
        )
    with session.reading(desk.sessions) as reading:
        job = jobs.job(reading, messages.parse_job_id(job_id))
        return [as_result(row) for row in outcomes.page(reading, job.id, after=after, limit=limit)]


@refusing
def cancel(desk: Desk, job_id: object) -> Reply:
    """Cancel a job; a job that has ended is left as it is."""
    with session.transaction(desk.sessions) as transaction:
        job = messages.parse_job_id(job_id)
        if not job_status(transaction, job).is_final:
            jobs.cancel(transaction, job)
        return job_status(transaction, job)


def job_status(reading: Session, job_id: uuid.UUID) -> messages.JobStatus:
    """Give a job's status in the words of the wire. Raises `UnknownJob`."""
    job = jobs.job(reading, job_id)
    return as_status(job, job.version, note=_obstacle(reading, job))


def as_status(job: jobs.JobView | leases.Ended, version: str | None, *, note: str | None = None) -> messages.JobStatus:
    """Give a job in the words of the wire."""
    return messages.JobStatus(
        job_id=str(job.id),
        model=job.model,
        version=version,
        state=job.state,
        num_items=job.num_items,
        num_succeeded=job.num_succeeded,
        num_failed=job.num_failed,
        created_at_s=job.created_at_s,
        started_at_s=job.started_at_s,
        finished_at_s=job.finished_at_s,
        note=note,
    )


def as_result(row: outcomes.Recorded) -> messages.Result:
    """Give an outcome in the words of the wire."""
    return result_of(row, row.version)


def result_of(outcome: outcomes.Recorded | outcomes.Outcome, version: str | None) -> messages.Result:
    """Give an outcome of a version in the words of the wire."""
    failure = outcome.error
    return messages.Result(
        position=outcome.position,
        key=outcome.key,
        reference=outcome.reference,
        label=outcome.label,
        score=outcome.score,
        top_k=[[label, score] for label, score in outcome.top_k],
        version=version,
        error=None if failure is None else _item_error(failure),
    )


def _item_error(failure: outcomes.ItemFailure) -> messages.ItemError:
    return messages.ItemError(stage=failure.stage, kind=failure.kind, message=failure.message)


def _receive(desk: Desk, transaction: Session, submission: messages.Submission) -> ledger.Receipt:
    known = ledger.known(transaction, uuid.UUID(submission.job_id), submission.idempotency_key)
    header = _header(transaction, submission, _pin(transaction, submission, known))
    if known is None:
        desk.quotas.room(transaction).take(submission)
    return ledger.receive(
        transaction,
        header,
        _items(submission),
        first_position=submission.first_position,
        digest=submission.digest(),
        shard_size=sizing.shard_size(transaction, desk.shard_size, submission.model, submission.num_items),
    )


def _keep_callback(desk: Desk, transaction: Session, job_id: uuid.UUID, submission: messages.Submission) -> None:
    if submission.callback is not None:
        host = receivers.host_of(submission.callback, desk.callback_roots)
        callbacks.add(transaction, job_id, submission.callback, host=host)


def _header(transaction: Session, submission: messages.Submission, version_id: int | None) -> ledger.NewJob:
    deadline_s = submission.deadline_s
    return ledger.NewJob(
        id=uuid.UUID(submission.job_id),
        model=submission.model,
        version_id=version_id,
        priority=submission.priority,
        idempotency_key=submission.idempotency_key,
        top_k=submission.top_k,
        num_items=submission.num_items,
        deadline_s=None if deadline_s is None else session.clock(transaction) + deadline_s,
        caller=submission.caller,
        traceparent=submission.traceparent,
    )


def _items(submission: messages.Submission) -> list[shards.Item]:
    return [
        shards.Item(position=position, key=item.key, reference=item.reference)
        for position, item in enumerate(submission.items, start=submission.first_position)
    ]


def _pin(transaction: Session, submission: messages.Submission, known: ledger.NewJob | None) -> int | None:
    """Choose the job's version: the first part decides, the others and any repetition follow."""
    if submission.version is None and known is not None:
        return known.version_id
    return _pin_new(transaction, submission)


def _pin_new(transaction: Session, submission: messages.Submission) -> int | None:
    if submission.version == "latest":
        registry.version(transaction, submission.model)
        return None
    if submission.version is None:
        return registry.version(transaction, submission.model).id
    version = registry.version(transaction, submission.version)
    if version.model != submission.model:
        raise errors.UnknownVersion(f"{submission.version} is not a version of model {submission.model!r}.")
    return version.id


def _keep_inline(desk: Desk, submission: messages.Submission) -> tuple[messages.Item, ...]:
    def kept(item: messages.Item) -> messages.Item:
        if item.inline is None:
            inline.hold(item.reference, desk.inline_store)
            return item
        reference = inline.keep(item.inline, desk.inline_store, max_bytes=desk.max_inline_bytes)
        return messages.Item(reference=reference, key=item.key)

    return tuple(kept(item) for item in submission.items)


def _obstacle(reading: Session, job: jobs.JobView) -> str | None:
    """Say why nothing happens, where the ledger can tell."""
    if job.state not in ("accepted", "running"):
        return None
    if paused := pausing.why(pauses.pauses(reading, job.model), job.priority):
        return paused
    serving = [worker for worker in workers.list_alive(reading, within_s=sizing.ALIVE_S) if job.model in worker.models]
    if not serving:
        return f"No classify worker serves model {job.model!r} at the moment."
    if not any(worker.takes_work for worker in serving):
        return f"Every classify worker that serves model {job.model!r} is being drained, and takes no more work."
    version = job.version or registry.version(reading, job.model).name
    barred = troubles.bars(serving, job.model, version)
    return barred and f"{barred} {_mend(job, version)}"


def _mend(job: jobs.JobView, version: str) -> str:
    """Say what ends the wait: a pinned job is answered by its version or not at all."""
    if job.version is None:
        return f"The job waits; `imagemill models rollback {job.model}` lets it go on with the version before."
    return (
        f"The job waits for {version}: once its checkpoint is back (`imagemill restore`) it goes on by itself; or "
        f"cancel it, and submit it again after `imagemill models rollback {job.model}`."
    )


def _is_whole(value: object, lowest: int, highest: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest
