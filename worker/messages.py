"""Takes the dictionaries that travel through Redis. Gives checked values, and names for tasks and queues.

Knows nothing of Celery, SQL or torch: standard library only, so that any service can import it.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from . import forms

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: Redis key prefix of the serving family. A producer without this code names the queue `imagemill:intake`.
KEY_PREFIX = "imagemill:"

#: Task names carry a version: a worker keeps the old name one release when the message changes.
SUBMIT = "imagemill.submit.v1"
STATUS = "imagemill.status.v1"
RESULTS = "imagemill.results.v1"
CANCEL = "imagemill.cancel.v1"
CLASSIFY = "imagemill.classify.v1"
SWEEP = "imagemill.sweep.v1"
#: What these carry is in `learning_messages`.
LABELS = "imagemill.labels.v1"
RETRAIN = "imagemill.retrain.v1"
RUN_STATUS = "imagemill.run_status.v1"
LEARN = "imagemill.learn.v1"
TICK = "imagemill.tick.v1"
PRUNE = "imagemill.prune.v1"
WATCH_DRIFT = "imagemill.watch_drift.v1"

INTAKE_QUEUE = "intake"
UPKEEP_QUEUE = "upkeep"
LEARN_QUEUE = "learn"
#: The tasks of each queue, those of classify under the first word of their queues' names; any other is nobody's.
TASKS = {
    INTAKE_QUEUE: frozenset({SUBMIT, STATUS, RESULTS, CANCEL, LABELS, RETRAIN, RUN_STATUS}),
    UPKEEP_QUEUE: frozenset({PRUNE, SWEEP, TICK}),
    LEARN_QUEUE: frozenset({LEARN, WATCH_DRIFT}),
    "classify": frozenset({CLASSIFY}),
}

Priority = Literal["interactive", "bulk"]
INTERACTIVE: Priority = "interactive"
BULK: Priority = "bulk"
#: In the order they are served.
PRIORITIES: tuple[Priority, ...] = ("interactive", "bulk")

#: Seconds after which an unacknowledged message is rung again; five times a task's hard limit of 300 s.
VISIBILITY_TIMEOUT_S = 1500

#: States from which a job does not move by itself.
FINAL_STATES = ("succeeded", "partial", "failed", "cancelled", "expired")
#: All states of a job, in the order it goes through them.
STATES = ("receiving", "accepted", "running", *FINAL_STATES)

#: Items in one message; a larger job travels in parts.
MAX_PART_ITEMS = 1000
#: Bytes of items in one message, about as JSON has them.
MAX_PART_BYTES = 256 * 1024
#: Outcomes in one answer.
MAX_PAGE_ITEMS = 1000
#: Items in one job.
MAX_JOB_ITEMS = 10_000_000
#: Characters in a reference or a key.
MAX_TEXT = forms.MAX_TEXT
#: Characters in a callback's URL.
MAX_URL = 2048
#: Outcomes told in a notice at most, and their bytes; those of a larger job are asked for in pages.
MAX_TOLD_ITEMS, MAX_TOLD_BYTES = 100, 64 * 1024
#: The largest shard's number: what both databases hold.
MAX_SHARD = 2**63 - 1
#: Predictions returned per item at most.
MAX_TOP_K = 100

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
VERSION_NAME = re.compile(rf"latest|{MODEL_NAME.pattern}:[1-9][0-9]{{0,8}}")

#: A span as W3C Trace Context writes it: trace and span, neither of them all zeros, and flags.
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_ITEM_FIELDS = frozenset({"reference", "key", "bytes"})

#: Named here too, for all who read messages.
MessageInvalid = forms.MessageInvalid


def classify_queue(model: str, priority: str) -> str:
    """Name the queue that rings for `model` at `priority`."""
    return f"classify.{model}.{priority}"


def listening_key(job_id: str) -> str:
    """Name the Redis stream of those who listen for a job; it exists while somebody does."""
    return f"{KEY_PREFIX}listening:{job_id}"


def check_broker_url(url: str) -> str:
    """Give the URL of a Redis; one over TLS proves who it is unless the URL says otherwise.

    Raises `MessageInvalid` for any other kind of address.
    """
    if not url.startswith(("redis://", "rediss://", "redis+socket://", "sentinel://")):
        raise MessageInvalid("A broker is a redis://, rediss://, redis+socket:// or sentinel:// URL.")
    if not url.startswith("sentinel://"):  # those are several, separated by semicolons
        _check_port(url)
    if url.startswith("rediss://") and "ssl_cert_reqs=" not in url:
        return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"
    return url


def _check_port(url: str) -> None:
    try:
        _ = urlsplit(url).port
    except ValueError:  # a password with a slash in it, say
        raise MessageInvalid(
            "The broker's URL cannot be read: give redis://:PASSWORD@HOST:PORT/0, with the password's special "
            "characters as %XX."
        ) from None


def transport_options() -> dict[str, Any]:
    """Give the Redis transport's options, which every process on this broker must share.

    The shortest visibility timeout of all clients wins, and the restore sweep runs about every 100 s
    unless the last three say otherwise (kombu 5.7, transport/redis.py).
    """
    return {
        "global_keyprefix": KEY_PREFIX,
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "unacked_restore_limit": 100,
        "queue_order_strategy": "priority",
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image to classify: a reference, or the bytes of a small image."""

    reference: str = ""
    #: The caller's own name for the item, unique in its job; comes back with the outcome.
    key: str | None = None
    #: A small image itself; intake stores it and gives it a reference.
    inline: bytes | None = None

    @property
    def num_bytes(self) -> int:
        """About what it takes in a message."""
        return len(self.reference) + len(self.key or "") + len(self.inline or b"") * 4 // 3 + 32

    def as_json(self) -> dict[str, str]:
        """Give the wire form."""
        wire = {"reference": self.reference} if self.inline is None else {}
        if self.inline is not None:
            wire["bytes"] = forms.encoded(self.inline)
        if self.key is not None:
            wire["key"] = self.key
        return wire

    @classmethod
    def parse(cls, wire: Any) -> "Item":
        """Read the wire form: a reference, or an object with `reference` or `bytes`, and perhaps `key`."""
        if isinstance(wire, str):
            wire = {"reference": wire}
        fields = forms.fields_of(wire, "an item", _ITEM_FIELDS)
        if ("reference" in fields) == ("bytes" in fields):
            raise MessageInvalid("An item needs either `reference` or `bytes`.")
        key = forms.text_or_none(fields, "key")
        if "bytes" in fields:
            return cls(key=key, inline=forms.decoded(fields["bytes"]))
        return cls(reference=forms.text(fields, "reference"), key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job, or one part of it: every part repeats the job's own fields, so parts may come in any order."""

    job_id: str
    items: tuple[Item, ...]
    model: str = "default"
    #: None pins the version that serves when the job is accepted; `latest` follows promotions; `model:3` is exact.
    version: str | None = None
    priority: Priority = BULK
    idempotency_key: str | None = None
    #: How many of the best labels to record per item.
    top_k: int = 5
    #: Seconds after which unfinished items are dropped, counted from when the first part is recorded.
    deadline_s: float | None = None
    #: Items in the whole job.
    num_items: int = 0
    #: Position in the job of this part's first item.
    first_position: int = 0
    #: Who asks: for the operator's eyes, and for the quota of one caller.
    caller: str | None = None
    #: An https:// URL that is told of the job's end; its host must be one that the operator allows.
    callback: str | None = None
    #: The caller's span, as W3C Trace Context writes one: what is done for the job joins its trace.
    traceparent: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the wire form, without the fields that are at their defaults."""
        wire: dict[str, Any] = {
            name: value
            for name, value in ((name, getattr(self, name)) for name in self.__slots__)
            if name != "items" and value is not None
        }
        return wire | {"items": [item.as_json() for item in self.items]}

    @classmethod
    def parse(cls, wire: Any) -> "Submission":
        """Check a message of any origin. Raises `MessageInvalid` with a sentence that names the field."""
        fields = forms.fields_of(wire, "a submission", set(cls.__slots__))
        items = forms.rows_of(fields, "items", most=MAX_PART_ITEMS)
        first = forms.whole(fields, "first_position", default=0, lowest=0, highest=MAX_JOB_ITEMS)
        submission = cls(
            job_id=forms.identifier(fields, "job_id"),
            items=tuple(Item.parse(item) for item in items),
            model=forms.match(fields, "model", MODEL_NAME, default="default"),
            version=forms.match(fields, "version", VERSION_NAME, default=None),
            priority=forms.one_of(fields, "priority", PRIORITIES, default=BULK),
            idempotency_key=forms.text_or_none(fields, "idempotency_key"),
            top_k=forms.whole(fields, "top_k", default=5, lowest=1, highest=MAX_TOP_K),
            deadline_s=forms.seconds(fields, "deadline_s"),
            num_items=forms.whole(
                fields,
                "num_items",
                default=first + len(items),
                lowest=first + len(items),
                highest=MAX_JOB_ITEMS,
            ),
            first_position=first,
            caller=forms.text_or_none(fields, "caller"),
            callback=forms.text_or_none(fields, "callback", most=MAX_URL),
            traceparent=forms.match(fields, "traceparent", TRACEPARENT, default=None),
        )
        submission._refuse_repeated_keys()
        forms.refuse_heavy(submission.items, "items", most=MAX_PART_BYTES)
        return submission

    def digest(self) -> str:
        """Give the sha256 of this part's items, by which a re-sent part is known."""
        body = json.dumps([item.as_json() for item in self.items], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(body.encode()).hexdigest()

    def _refuse_repeated_keys(self) -> None:
        keys = [item.key for item in self.items if item.key is not None]
        if len(set(keys)) < len(keys):
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise MessageInvalid(f"The key {repeated!r} is given to more than one item; keys must be unique in a job.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Intake's acknowledgement: what it names is in the ledger."""

    job_id: str
    state: str
    num_received: int
    num_items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job as the ledger has it."""

    job_id: str
    model: str
    #: `model:3`, or None while the job follows `latest`.
    version: str | None
    state: str
    num_items: int
    num_succeeded: int
    num_failed: int
    created_at_s: float
    started_at_s: float | None = None
    finished_at_s: float | None = None
    #: What stands in the way, if the ledger knows (no worker serves the model, say).
    note: str | None = None

    @property
    def num_done(self) -> int:
        """Items that have their outcome."""
        return self.num_succeeded + self.num_failed

    @property
    def is_final(self) -> bool:
        """Whether the job will not move by itself any more."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemError:
    """Why an item has no label."""

    #: fetch, decode, load or forward.
    stage: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One item's outcome, as a caller gets it."""

    position: int
    key: str | None
    reference: str
    label: str | None = None
    score: float | None = None
    #: Labels with their scores, best first.
    top_k: list[list[Any]] = field(default_factory=list)
    version: str | None = None
    error: ItemError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Intake's no: what was wrong, in one sentence."""

    #: For programs: `queue_full` and `quota_exceeded` where too much waits.
    kind: str
    message: str
    #: Seconds after which the same request, with the same ids, is worth another try; None where that would not help.
    retry_after_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the wire form, which has no more fields than a client of an earlier release knows, unless it must."""
        wire: dict[str, Any] = {"kind": self.kind, "message": self.message}
        return wire if self.retry_after_s is None else wire | {"retry_after_s": self.retry_after_s}


Reply = Receipt | JobStatus | Refusal | list[Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What those who listen for a job are told of it: how it ended, or that a submission of it was nothing new."""

    job_id: str
    #: The status it ended with.
    status: JobStatus | None = None
    #: All its outcomes, if they are few.
    results: list[Result] | None = None
    #: What the ledger has already, where a submission was repeated.
    receipt: Receipt | None = None
    refused: Refusal | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the wire form."""
        return asdict(self) | {"refused": self.refused and self.refused.as_json()}

    @classmethod
    def parse(cls, text: str | bytes) -> "Notice":
        """Read the wire form."""
        wire = json.loads(text)
        status, results, receipt, refused = (wire[name] for name in ("status", "results", "receipt", "refused"))
        return cls(
            job_id=wire["job_id"],
            status=status and JobStatus(**status),
            results=results and [parse_result(result) for result in results],
            receipt=receipt and Receipt(**receipt),
            refused=refused and Refusal(**refused),
        )


def reply_as_json(reply: "DataclassInstance | list[Result]") -> dict[str, Any]:
    """Give the wire form of an answer: `{"ok": ...}` or `{"refused": {"kind", "message"}}`.

    Where too much waits, `refused` has `retry_after_s` too: the seconds after which to send the same message again.
    """
    if isinstance(reply, Refusal):
        return {"refused": reply.as_json()}
    return {"ok": [asdict(result) for result in reply] if isinstance(reply, list) else asdict(reply)}


def parse_result(wire: Mapping[str, Any]) -> Result:
    """Read one result from an answer."""
    error = wire.get("error")
    return Result(**{**wire, "error": ItemError(**error) if error else None})


def parse_job_id(text: Any) -> uuid.UUID:
    """Read a job id. Raises `MessageInvalid` unless it is a UUID."""
    return uuid.UUID(forms.identifier({"job_id": text}, "job_id"))


def parse_shard_id(given: Any) -> int:
    """Read a shard's number. Raises `MessageInvalid`."""
    return forms.whole({"shard": given}, "shard", default=None, lowest=1, highest=MAX_SHARD)


def parse_model(given: Any) -> str:
    """Read a model's name. Raises `MessageInvalid`."""
    name: str = forms.match({"model": given}, "model", MODEL_NAME, default="")
    return name


def local_path(reference: str) -> str:
    """Give the path that a `file://` reference names, or the text itself."""
    if not reference.startswith("file://"):
        return reference
    # `?` and `#` are ordinary characters of file names, so no URL parser.
    return unquote(reference.removeprefix("file://").removeprefix("localhost"), errors="surrogateescape")
