"""Takes references and labels from another service. Gives jobs, outcomes, receipts and runs, over Redis alone.

Knows nothing of torch or SQL. A submit returns once the ledger has the job, and asks again until then.
"""

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, TypeVar

from celery import Celery
from celery.app import backends
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from . import manifests
from .learning_messages import LabelledImage, Labels, LabelsReceipt, Retrain, RunStatus
from .listening import Listening
from .messages import (
    BULK,
    CANCEL,
    INTAKE_QUEUE,
    INTERACTIVE,
    LABELS,
    MAX_PAGE_ITEMS,
    MAX_PART_BYTES,
    MAX_PART_ITEMS,
    RESULTS,
    RETRAIN,
    RUN_STATUS,
    STATUS,
    SUBMIT,
    Item,
    JobStatus,
    Notice,
    Priority,
    Receipt,
    Result,
    Submission,
    check_broker_url,
    parse_result,
    transport_options,
)

#: Seconds an answer may take before the same message, with the same id, is sent again.
RESEND_S = 5.0
#: The same for labels, whose images intake fetches and decodes before it answers.
RESEND_LABELS_S = 30.0
#: Labels in one message: intake is not to be kept from others for long.
PART_LABELS = 100
#: Parts on their way at once.
PARTS_AHEAD = 8
#: Seconds between two looks for an answer: at first, and at most.
ANSWER_POLL_S = (0.001, 0.025)
#: Seconds between two looks at a job's progress: at first, and at most.
POLL_S = (0.02, 0.5)
#: The same for who only wants to hear how it ended, and listens in between.
LISTEN_S = (1.0, 5.0)

#: Seconds that a connection to Redis, and each command to it, may take.
COMMAND_S = 2.0
#: One attempt of kombu's: how often is decided here, where it is known how long the caller waits. Its own come to 41 s.
ATTEMPT = {"socket_timeout": COMMAND_S, "socket_connect_timeout": COMMAND_S, "max_retries": 0}
#: Seconds before a command that Redis did not take is tried anew, on a new connection; after the last it is away.
REACH_PAUSES_S = (0.2, 0.5)
#: The moment that never comes.
NEVER_S = float("inf")

#: What a broker that is away, or that turns us away, raises.
BROKER_ERRORS = (OperationalError, RedisError, ConnectionError, OSError)

#: What Redis answers.
Reached = TypeVar("Reached")
#: What a caller names an image by: a reference, or its bytes.
Given = TypeVar("Given", str, bytes)


class ClientError(Exception):
    """imagemill could not do what was asked."""


class BrokerUnreachable(ClientError):
    """No Redis answers at the broker's address."""


class NotAcknowledged(ClientError):
    """Intake did not answer in time; the job may or may not be recorded, and may be sent again with the same id."""


class Unfinished(ClientError):
    """Not every image has its outcome; `status` says how far the job is, where that is known."""

    def __init__(self, job_id: str, status: JobStatus | None) -> None:
        state = status.state if status else "on its way"
        super().__init__(f"Job {job_id} is {state}, and not all of its images have an outcome.")
        self.job_id = job_id
        self.status = status


class Refused(ClientError):
    """Intake refused the request; `kind` says why, for programs.

    `retry_after_s` seconds later the same request may be taken; None where that would not help. Too much waited if the
    kind is `queue_full`, or `quota_exceeded` for one caller alone.
    """

    def __init__(self, kind: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A message to intake; the id under which its answer is stored stays when it is sent again."""

    task: str
    payload: dict[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    #: None takes `RESEND_S`.
    resend_s: float | None = None
    #: Intake is to store an answer under the id.
    is_answered: bool = True


class Client:
    """Hands images to imagemill and asks what became of them.

    `timeout_s` bounds each exchange with intake, in seconds. A Redis that is away, or that takes what is sent and never
    answers, is told of as `BrokerUnreachable` within ten seconds; no other bound is passed by more than `COMMAND_S`.
    """

    def __init__(self, broker_url: str, *, timeout_s: float = 60.0) -> None:
        self.timeout_s = timeout_s
        broker_url = check_broker_url(broker_url)
        # A second Celery() must not become the app of the service that uses this client.
        self._app = Celery("imagemill-client", set_as_current=False)
        self._app.conf.update(
            broker_url=broker_url,
            broker_transport_options=transport_options() | ATTEMPT,
            accept_content=["json"],
            broker_connection_timeout=COMMAND_S,
            redis_socket_timeout=COMMAND_S,
            redis_socket_connect_timeout=COMMAND_S,
            task_publish_retry=False,
        )
        backend, url = backends.by_url(broker_url, self._app.loader)
        self._replies = backend(app=self._app, url=url)

    def submit(self, references: Iterable[str], **options: Any) -> Receipt:
        """Submit references, paths, globs and folders as one job. Options as in `submit_items`."""
        return self.submit_items(manifests.from_references(references), **options)

    def submit_manifest(self, file: str | Path, **options: Any) -> Receipt:
        """Submit a JSONL or CSV manifest as one job, in constant memory. Options as in `submit_items`."""
        return self.submit_items(manifests.from_manifest(Path(file)), **options)

    def submit_bytes(self, images: Iterable[bytes], **options: Any) -> Receipt:
        """Submit small images themselves as one job; intake stores them. Options as in `submit_items`."""
        items = [Item(inline=image) for image in images]
        return self.submit_items(lambda: iter(items), **options)

    def submit_items(
        self,
        source: manifests.Source,
        *,
        model: str = "default",
        version: str | None = None,
        priority: Priority = BULK,
        idempotency_key: str | None = None,
        top_k: int = 5,
        deadline_s: float | None = None,
        caller: str | None = None,
        callback: str | None = None,
        traceparent: str | None = None,
        job_id: str | None = None,
        on_sent: Callable[[int], None] | None = None,
    ) -> Receipt:
        """Submit a job of any size and return once the ledger has it all.

        The same `idempotency_key` with the same items gives the same job, however often. `version` None pins
        the serving version, `latest` follows promotions, `model:3` is exact. `deadline_s` counts from the first part.
        `callback` is an https:// URL that is told of the job's end, signed (docs/callbacks.md).
        `traceparent` names your own span, as W3C Trace Context writes one: the work joins its trace.
        Raises `ManifestInvalid`, `Refused`, `NotAcknowledged` or `BrokerUnreachable`.
        """
        num_items = manifests.check(source)
        header = Submission(
            job_id=job_id or str(uuid.uuid4()),
            items=(),
            model=model,
            version=version,
            priority=priority,
            idempotency_key=idempotency_key,
            top_k=top_k,
            deadline_s=deadline_s,
            num_items=num_items,
            caller=caller,
            callback=callback,
            traceparent=traceparent,
        )
        return self._send_all(header, source, on_sent)

    def classify(self, references: Iterable[str], *, timeout_s: float | None = None, **options: Any) -> list[Result]:
        """Submit references, paths, globs and folders as one small job, wait, and give all outcomes in order.

        The quickest way to few images: nothing is asked twice. Options as in `submit_items`, except that the priority
        is interactive. Raises `Unfinished` if not all have their outcome within `timeout_s` seconds, or ever will.
        """
        return self.classify_items(manifests.from_references(references), timeout_s=timeout_s, **options)

    def classify_bytes(
        self, images: Iterable[bytes], *, timeout_s: float | None = None, **options: Any
    ) -> list[Result]:
        """Submit small images themselves, wait, and give all outcomes in order. As `classify`."""
        items = [Item(inline=image) for image in images]
        return self.classify_items(lambda: iter(items), timeout_s=timeout_s, **options)

    def classify_items(
        self, source: manifests.Source, *, timeout_s: float | None = None, **options: Any
    ) -> list[Result]:
        """Submit a job, wait, and give all outcomes in order. As `classify`."""
        give_up_s = _in(timeout_s)
        options.setdefault("priority", INTERACTIVE)
        notice = self._submit_and_hear(source, options, give_up_s)
        if notice.refused is not None:
            raise Refused(**asdict(notice.refused))
        status, results = notice.status, notice.results
        if notice.receipt is not None:
            status, results = self._hear_end(notice.receipt.job_id, give_up_s)
        if status is None or not status.is_final or status.num_done < status.num_items:
            raise Unfinished(status.job_id if status else notice.job_id, status)
        return results or list(self._results(status.job_id, give_up_s))

    def status(self, job_id: str) -> JobStatus:
        """Ask how far a job is."""
        return JobStatus(**self._ask(STATUS, {"job_id": job_id}))

    def wait(
        self,
        job_id: str,
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[JobStatus], None] | None = None,
    ) -> JobStatus:
        """Wait until the job has ended, or for `timeout_s` seconds, and give its last status.

        A broker that goes away meanwhile is waited for as long as any answer is, `self.timeout_s`. If no status was
        heard by then, raises `BrokerUnreachable` or `NotAcknowledged`.
        """
        return self._hear_end(job_id, _in(timeout_s), on_progress)[0]

    def _submit_and_hear(self, source: manifests.Source, options: dict[str, Any], give_up_s: float) -> Notice:
        """Submit, and give the first that is heard of it: how it ended, or the receipt of what is not new."""
        header = Submission(job_id=str(uuid.uuid4()), items=(), num_items=manifests.check(source), **options)
        small = next(parts(header, source))
        if len(small.items) < small.num_items:
            receipt = self._send_all(header, source)
            return Notice(job_id=receipt.job_id, receipt=receipt)
        question = _Question(task=SUBMIT, payload=small.as_json(), is_answered=False)
        last_s = min(give_up_s, time.monotonic() + self.timeout_s)
        listening = self._reach(lambda: Listening(self._replies.client, header.job_id), last_s)
        while (left_s := last_s - time.monotonic()) > 0:
            self._send(question, last_s)
            notice = self._hear(listening, min(RESEND_S, left_s))
            if notice is not None:
                with suppress(*BROKER_ERRORS):  # the stream ends by itself, too, and the answer is here
                    listening.close()
                return notice
        if time.monotonic() >= give_up_s:
            return Notice(job_id=header.job_id)
        raise self._not_acknowledged()

    def _hear_end(
        self, job_id: str, give_up_s: float, on_progress: Callable[[JobStatus], None] | None = None
    ) -> tuple[JobStatus, list[Result] | None]:
        """Wait for the notice of a job's end, and ask for its status now and then: a notice may be lost.

        Gives the last status, and the results if a notice held them.
        """
        pause_s, longest_s = POLL_S if on_progress else LISTEN_S
        listening: Listening | None = None
        status: JobStatus | None = None
        while True:
            with suppress(*BROKER_ERRORS):
                # Before the question: what ends after the answer is heard.
                listening = listening or Listening(self._replies.client, job_id)
            try:
                status = self._status_in_time(job_id, give_up_s)
            except (BrokerUnreachable, NotAcknowledged):
                if status is None or time.monotonic() < give_up_s:
                    raise
            if on_progress:
                on_progress(status)
            if status.is_final or time.monotonic() >= give_up_s:
                return status, None
            within_s = min(pause_s, max(0.0, give_up_s - time.monotonic()))
            notice = self._hear(listening, within_s)
            if notice is not None and notice.status is not None:
                if on_progress:
                    on_progress(notice.status)
                return notice.status, notice.results
            pause_s = min(pause_s * 1.5, longest_s)

    def _hear(self, listening: Listening | None, within_s: float) -> Notice | None:
        """Wait for a notice; a broker that is away for the moment is waited for, too."""
        if listening is not None:
            with suppress(*BROKER_ERRORS):
                return listening.hear(within_s)
        time.sleep(min(within_s, POLL_S[1]))
        return None

    def _status_in_time(self, job_id: str, give_up_s: float) -> JobStatus:
        patience_ends_s = min(give_up_s, time.monotonic() + self.timeout_s)
        while True:
            try:
                return JobStatus(**self._ask(STATUS, {"job_id": job_id}, give_up_s))
            except BrokerUnreachable:
                left_s = patience_ends_s - time.monotonic()
                if left_s <= 0:
                    raise
                time.sleep(min(left_s, POLL_S[1]))

    def results(self, job_id: str) -> Iterator[Result]:
        """Give the outcomes recorded so far, in the order of the items, a page at a time."""
        return self._results(job_id, NEVER_S)

    def _results(self, job_id: str, give_up_s: float) -> Iterator[Result]:
        after = -1
        while True:
            page = self._ask(RESULTS, {"job_id": job_id, "after": after, "limit": MAX_PAGE_ITEMS}, give_up_s)
            yield from (parse_result(wire) for wire in page)
            if len(page) < MAX_PAGE_ITEMS:
                return
            after = page[-1]["position"]

    def cancel(self, job_id: str) -> JobStatus:
        """Cancel a job; outcomes already recorded are kept."""
        return JobStatus(**self._ask(CANCEL, {"job_id": job_id}))

    def label(self, pairs: Iterable[tuple[str, str]], **options: Any) -> LabelsReceipt:
        """Say what images show: pairs of a reference or path, and a label. Options as in `label_items`."""
        here = Path.cwd()
        return self._label(pairs, lambda text: {"reference": manifests.as_reference(text, here)}, options)

    def label_images(self, pairs: Iterable[tuple[bytes, str]], **options: Any) -> LabelsReceipt:
        """Say what small images show, given themselves; intake stores them. Options as in `label_items`."""
        return self._label(pairs, lambda image: {"inline": image}, options)

    def label_items(
        self,
        images: Iterable[LabelledImage],
        *,
        model: str = "default",
        on_sent: Callable[[int], None] | None = None,
    ) -> LabelsReceipt:
        """Hand over labels of any number and return once the ledger has them.

        An image that cannot be read, or a class that the model's fixed list lacks, is named in the receipt's `refused`
        and costs the others nothing. An image without a `key` gets one of this call, so that a message sent again
        counts once; give keys of your own where the whole call may be repeated after a correction by others.
        Raises `Refused`, `NotAcknowledged` or `BrokerUnreachable`; the labels before are recorded then, and all may
        be given again.
        """
        whole = LabelsReceipt(model=model)
        call = uuid.uuid4()
        keyed = (replace(one, key=one.key or f"{call}:{position}") for position, one in enumerate(images))
        for part in _label_parts(keyed):
            payload = Labels(model=model, images=part).as_json()
            question = _Question(task=LABELS, payload=payload, resend_s=RESEND_LABELS_S)
            whole = whole.and_then(LabelsReceipt.parse(self._exchange(question)))
            if on_sent:
                on_sent(whole.num_labels)
        return whole

    def retrain(
        self,
        model: str = "default",
        *,
        reason: str = "",
        asked_by: str = "client",
        force: bool = False,
        strategy: str | None = None,
        base: str | None = None,
        seed: int = 0,
    ) -> RunStatus:
        """Ask for a new version of the model, and give the run that makes it.

        A model has one run at a time: if one is not over yet, that one is given. `strategy` is `head`, `last_stage` or
        `all`, `base` the version it starts from (`model:3`); None leaves either to the playbook. `force` trains
        although the plan says that it is not worth it. Raises `Refused`, `NotAcknowledged` or `BrokerUnreachable`.
        """
        wish = Retrain(
            model=model, asked_by=asked_by, reason=reason, force=force, strategy=strategy, base=base, seed=seed
        )
        return RunStatus(**self._ask(RETRAIN, wish.as_json()))

    def run_status(self, run_id: int) -> RunStatus:
        """Ask how far a run is."""
        return RunStatus(**self._ask(RUN_STATUS, {"run": run_id}))

    def ping(self) -> None:
        """Make sure that the broker answers. Raises `BrokerUnreachable`."""
        self._reach(self._ping)

    def _ping(self) -> None:
        with self._app.connection_for_write() as connection:
            connection.default_channel.client.ping()

    def close(self) -> None:
        """Close the connections."""
        self._replies.client.close()
        self._app.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _label(
        self, pairs: Iterable[tuple[Given, str]], named: Callable[[Given], dict[str, Any]], options: dict[str, Any]
    ) -> LabelsReceipt:
        about = {name: options.pop(name) for name in ("who", "group") if name in options}
        about = {"who": "client", "source": "client", **about}
        return self.label_items((LabelledImage(label=label, **named(one), **about) for one, label in pairs), **options)

    def _send_all(
        self, header: Submission, source: manifests.Source, on_sent: Callable[[int], None] | None = None
    ) -> Receipt:
        """Send every part of a job whose items were checked, and give the fullest receipt."""
        receipt: Receipt | None = None
        for one in self._send_parts(parts(header, source)):
            # Parts may be recorded in another order than they were sent: the fullest receipt is the latest.
            receipt = one if receipt is None or one.num_received >= receipt.num_received else receipt
            if on_sent:
                on_sent(receipt.num_received)
        if receipt is None:
            raise NotAcknowledged(f"No part of job {header.job_id} was sent.")
        return receipt

    def _send_parts(self, parts: Iterator[Submission]) -> Iterator[Receipt]:
        """Send part after part, a few ahead of the receipts, so that intake is never idle.

        The first goes alone: if the job is refused, nothing of it is left on its way.
        """
        for first in islice(parts, 1):
            yield Receipt(**self._ask(SUBMIT, first.as_json()))
        ahead: deque[_Question] = deque()
        for part in parts:
            ahead.append(self._send(_Question(task=SUBMIT, payload=part.as_json())))
            if len(ahead) == PARTS_AHEAD:
                yield Receipt(**self._answer(ahead.popleft()))
        while ahead:
            yield Receipt(**self._answer(ahead.popleft()))

    def _ask(self, task: str, payload: dict[str, Any], give_up_s: float = NEVER_S) -> Any:
        return self._exchange(_Question(task=task, payload=payload), give_up_s)

    def _exchange(self, question: "_Question", give_up_s: float = NEVER_S) -> Any:
        last_s = min(give_up_s, time.monotonic() + self.timeout_s)
        return self._answer(self._send(question, last_s), last_s)

    def _send(self, question: "_Question", last_s: float = NEVER_S) -> "_Question":
        self._reach(lambda: self._publish(question), last_s)
        return question

    def _publish(self, question: "_Question") -> None:
        self._app.send_task(
            question.task,
            kwargs=question.payload,
            task_id=question.id,
            queue=INTAKE_QUEUE,
            ignore_result=not question.is_answered,
            argsrepr="()",
            kwargsrepr=_in_short(question.payload),
        )

    def _answer(self, question: "_Question", give_up_s: float = NEVER_S) -> Any:
        """Wait for intake's answer, sending the same message again while there is none."""
        now_s, patience_s = time.monotonic(), question.resend_s or RESEND_S
        last_s, resend_s = min(give_up_s, now_s + self.timeout_s), now_s + patience_s
        pause_s, longest_s = ANSWER_POLL_S
        while (answer := self._read_answer(question, last_s)) is None:
            now_s = time.monotonic()
            if now_s >= last_s:
                raise self._not_acknowledged()
            if now_s >= resend_s:
                self._send(question, last_s)
                resend_s = now_s + patience_s
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, longest_s)
        return _opened(answer)

    def _read_answer(self, question: "_Question", last_s: float = NEVER_S) -> dict[str, Any] | None:
        """Read what intake stored under the message's id, once.

        Read by key: Celery's own waiting subscribes to a channel, and a lost connection ends the process's app.
        """
        key = self._replies.get_key_for_task(question.id)
        stored = self._reach(lambda: self._replies.client.getdel(key), last_s)
        answer = json.loads(stored) if stored else None
        return None if answer is None or _was_lost(answer) else answer

    def _reach(self, ask: Callable[[], Reached], last_s: float = NEVER_S) -> Reached:
        """Ask Redis, and again where a connection was lost or nothing came back, but not after `last_s`.

        What is asked may so be done twice: each message has its id, and an answer that was lost is asked for again.
        """
        for pause_s in (*REACH_PAUSES_S, None):
            try:
                return ask()
            except BROKER_ERRORS as away:
                if pause_s is None or time.monotonic() + pause_s >= last_s:
                    raise self._unreachable(away) from None
            time.sleep(pause_s)
        raise AssertionError("the last pause is none")

    def _not_acknowledged(self) -> NotAcknowledged:
        return NotAcknowledged(f"Intake did not answer within {self.timeout_s:.0f} s. Is an intake worker running?")

    def _unreachable(self, away: BaseException) -> BrokerUnreachable:
        address = self._app.connection_for_write().as_uri()
        reason = str(away).splitlines()[0].rstrip(".") if str(away) else type(away).__name__
        return BrokerUnreachable(
            f"No Redis answers at {address} ({reason}). "
            "Start the stack with `imagemill up`, or set IMAGEMILL_BROKER_URL."
        )


def _in(timeout_s: float | None) -> float:
    """Give the moment `timeout_s` from now."""
    return NEVER_S if timeout_s is None else time.monotonic() + timeout_s


def parts(header: Submission, source: manifests.Source) -> Iterator[Submission]:
    """Cut the items into messages of bounded count and size."""
    part: list[Item] = []
    first, num_bytes = 0, 0
    for item in source():
        if part and (len(part) == MAX_PART_ITEMS or num_bytes + item.num_bytes > MAX_PART_BYTES):
            yield replace(header, items=tuple(part), first_position=first)
            first, part, num_bytes = first + len(part), [], 0
        part.append(item)
        num_bytes += item.num_bytes
    yield replace(header, items=tuple(part), first_position=first)


def _label_parts(images: Iterator[LabelledImage]) -> Iterator[tuple[LabelledImage, ...]]:
    """Cut labels into messages of bounded count and size."""
    while ahead := list(islice(images, PART_LABELS)):
        while ahead:
            sizes = accumulate(one.num_bytes for one in ahead)
            num = max(1, sum(size <= MAX_PART_BYTES for size in sizes))
            yield tuple(ahead[:num])
            del ahead[:num]


def _in_short(payload: dict[str, Any]) -> str:
    """Say what a message is about, for Flower and logs: never references, keys or bytes."""
    if "labels" in payload:
        return f"{len(payload['labels'])} labels of {payload['model']}"
    if "job_id" not in payload:
        return f"run {payload['run']}" if "run" in payload else f"retrain {payload['model']}"
    items = f", {len(payload['items'])} items from {payload.get('first_position', 0)}" if "items" in payload else ""
    return f"job {payload['job_id']}{items}"


def _was_lost(stored: dict[str, Any]) -> bool:
    """Whether intake's child died with the message in hand: that is no answer, and the message is sent again."""
    return bool(stored["status"] != "SUCCESS" and stored["result"].get("exc_type") == "WorkerLostError")


def _opened(stored: dict[str, Any]) -> Any:
    answer = stored["result"]
    if stored["status"] != "SUCCESS":
        raise ClientError(f"Intake failed on this request ({answer.get('exc_type')}); its log says more.")
    if "refused" in answer:
        raise Refused(**answer["refused"])
    return answer["ok"]
