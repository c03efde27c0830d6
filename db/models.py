"""The tables.

Takes nothing. Gives one mapped class per table and `metadata`, for statements and for the migrations' test.
Knows nothing of who reads or writes them.
"""

import uuid
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Text,
    TextClause,
    UniqueConstraint,
    cast,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.session import now_s
from db.splits import Split

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

JobState = Literal["receiving", "accepted", "running", "succeeded", "partial", "failed", "cancelled", "expired"]
ShardState = Literal["waiting", "claimed", "done", "split", "dropped"]
WorkerState = Literal["starting", "ready", "busy", "setup_failed", "stopped"]
Priority = Literal["interactive", "bulk"]
Source = Literal["import", "demo", "run"]
PromotionKind = Literal["promote", "rollback"]
RunState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
#: what a gate says of a challenger
GateVerdict = Literal["promote", "hold", "reject", "underpowered"]
#: what came of a run: its gate's verdict, or that the plan advised against it
Verdict = Literal["promote", "hold", "reject", "underpowered", "not_recommended"]
LiveCheckState = Literal["watching", "passed", "rolled_back"]
CallbackState = Literal["waiting", "sent", "given_up"]
ProposalKind = Literal["suggest", "audit"]
#: what can be paused: classification by its priority, and runs
Work = Literal["interactive", "bulk", "learning"]

#: states in which a job's shards may be claimed
WORKING: tuple[JobState, ...] = ("accepted", "running")
#: states a job has not ended in
OPEN: tuple[JobState, ...] = ("receiving", *WORKING)
#: stands for all models, those to come as well; no model can be called so
EVERY_MODEL = "*"
#: states a run has not ended in; a model has one such run at most
ACTIVE: tuple[RunState, ...] = ("queued", "running")

_JSON = JSON(none_as_null=True)
#: SQLite numbers rows by itself only in an INTEGER column
_SERIAL = BigInteger().with_variant(Integer, "sqlite")
_NAMES = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}


class Base(DeclarativeBase):
    """Carries the naming convention of constraints."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {str: Text, float: Double, dict[str, Any]: _JSON, list[Any]: _JSON}  # noqa: RUF012


metadata = Base.metadata


def _one_of(column: str, literal: object) -> CheckConstraint:
    values = ", ".join(f"'{value}'" for value in get_args(literal))
    return CheckConstraint(f"{column} IN ({values})", name=column)


def _where(name: str, columns: Iterable[str], condition: TextClause, *, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


class Version(Base):
    """One immutable checkpoint of a model; `model:number` outside this package."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("model", "number"), _one_of("source", Source))

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str]
    #: 1, 2, 3... within the model
    number: Mapped[int]
    arch: Mapped[str]
    num_classes: Mapped[int]
    #: the checkpoint folder
    reference: Mapped[str]
    #: hex digest of the weights
    sha256: Mapped[str] = mapped_column(String(64))
    source: Mapped[Source] = mapped_column(String(16))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    metrics: Mapped[dict[str, Any]]
    num_parameters: Mapped[int] = mapped_column(BigInteger)
    created_at_s: Mapped[float] = mapped_column(default=now_s())


def version_name(version: type[Version] = Version) -> ColumnElement[str]:
    """Spell a version's name, `model:number`, as an expression inside a statement."""
    return version.model + ":" + cast(version.number, Text)


class Serving(Base):
    """The serving pointer: one row per model, moved by compare-and-swap on its epoch."""

    __tablename__ = "serving"

    model: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    #: 1 at the first promotion, then one more at each
    epoch: Mapped[int] = mapped_column(BigInteger)


class Promotion(Base):
    """One move of a serving pointer; never changed."""

    __tablename__ = "promotions"
    __table_args__ = (UniqueConstraint("model", "epoch"), _one_of("kind", PromotionKind))

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str]
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    previous_version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    epoch: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[PromotionKind] = mapped_column(String(16))
    who: Mapped[str]
    reason: Mapped[str]
    at_s: Mapped[float] = mapped_column(default=now_s())
    #: somebody promoted it although the gate did not
    is_forced: Mapped[bool] = mapped_column(default=False, server_default=false())
    #: the verdict it rests on
    gate_id: Mapped[int | None] = mapped_column(ForeignKey("gates.id"))


class Job(Base):
    """One request; its counters are moved in the same transaction as the rows they count."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("idempotency_key"),
        _one_of("state", JobState),
        _one_of("priority", Priority),
        CheckConstraint("num_received <= num_items", name="received"),
        CheckConstraint("num_succeeded + num_failed <= num_received", name="recorded"),
        _where("ix_jobs_open", ["model", "version_id"], text("finished_at_s IS NULL")),
        Index("ix_jobs_created_at_s", "created_at_s"),
        Index("ix_jobs_caller", "caller", "created_at_s"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    model: Mapped[str]
    #: NULL follows the serving pointer
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    priority: Mapped[Priority] = mapped_column(String(16))
    state: Mapped[JobState] = mapped_column(String(16))
    idempotency_key: Mapped[str | None]
    #: labels per outcome
    top_k: Mapped[int]
    num_items: Mapped[int]
    num_received: Mapped[int] = mapped_column(default=0)
    num_succeeded: Mapped[int] = mapped_column(default=0)
    num_failed: Mapped[int] = mapped_column(default=0)
    #: shards that are waiting or claimed
    num_open_shards: Mapped[int] = mapped_column(default=0)
    #: epoch seconds after which the job expires
    deadline_s: Mapped[float | None]
    created_at_s: Mapped[float] = mapped_column(default=now_s())
    accepted_at_s: Mapped[float | None]
    started_at_s: Mapped[float | None]
    finished_at_s: Mapped[float | None]
    caller: Mapped[str | None]
    #: the caller's span that asked for it, as W3C Trace Context writes one
    traceparent: Mapped[str | None]


class Part(Base):
    """A stretch of a job's items that was received in one message."""

    __tablename__ = "parts"

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    first_position: Mapped[int] = mapped_column(primary_key=True)
    num_items: Mapped[int]
    #: tells a re-sent part from a different one
    digest: Mapped[str]


class Shard(Base):
    """Up to N unfinished items of one job, as one blob: a row per item would halve the speed of a submit."""

    __tablename__ = "shards"
    __table_args__ = (
        _one_of("state", ShardState),
        _one_of("priority", Priority),
        _where("ix_shards_waiting", ["model", "version_id", "priority", "id"], text("state = 'waiting'")),
        _where("ix_shards_urgent", ["model", "version_id"], text("state = 'waiting' AND priority = 'interactive'")),
        _where("ix_shards_unrung", ["id"], text("state = 'waiting' AND rung_at_s IS NULL")),
        _where("ix_shards_claimed", ["lease_until_s"], text("state = 'claimed'")),
        Index("ix_shards_job_id", "job_id"),
    )

    id: Mapped[int] = mapped_column(_SERIAL, primary_key=True)
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id"))
    model: Mapped[str]
    version_id: Mapped[int | None]
    priority: Mapped[Priority] = mapped_column(String(16))
    state: Mapped[ShardState] = mapped_column(String(16), default="waiting")
    num_items: Mapped[int]
    #: [[position, key or null, reference], ...]; NULL once done or split
    items: Mapped[list[Any] | None]
    #: rises with every claim; a write that carries an older one is refused
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    #: claims that did not end well
    attempts: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_until_s: Mapped[float | None]
    #: epoch seconds before which nobody may claim it
    not_before_s: Mapped[float | None]
    #: when a message naming this shard was last sent; NULL asks for one
    rung_at_s: Mapped[float | None]
    created_at_s: Mapped[float] = mapped_column(default=now_s())
    finished_at_s: Mapped[float | None]


class Callback(Base):
    """Who is to be told of a job's end, once for each end; goes with its job."""

    __tablename__ = "callbacks"
    __table_args__ = (
        _one_of("state", CallbackState),
        _where("ix_callbacks_due", ["next_at_s", "host"], text("state = 'waiting' AND next_at_s IS NOT NULL")),
    )

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    url: Mapped[str]
    #: the URL's host, with its port if that is not 443
    host: Mapped[str]
    state: Mapped[CallbackState] = mapped_column(String(16), default="waiting")
    #: rises with every claim; a note that carries an older one is refused
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    #: claims since the job ended
    attempts: Mapped[int] = mapped_column(default=0)
    #: epoch seconds before which nobody may claim it: while it is being sent, until that claim's lease runs out. NULL
    #: while the job has not ended.
    next_at_s: Mapped[float | None]
    #: what the receiver answered last
    last_status: Mapped[int | None]
    #: why the last attempt failed
    error: Mapped[str | None]
    created_at_s: Mapped[float] = mapped_column(default=now_s())
    #: when it was sent or given up
    finished_at_s: Mapped[float | None]


class Outcome(Base):
    """What became of one item: a label or an error, never both; enough columns to be read alone."""

    __tablename__ = "outcomes"
    __table_args__ = (
        PrimaryKeyConstraint("job_id", "position"),
        CheckConstraint("(label IS NULL) <> (error_kind IS NULL)", name="label_or_error"),
        _where("ix_outcomes_errors", ["job_id", "position"], text("error_kind IS NOT NULL")),
        Index("ix_outcomes_version_id", "version_id", "recorded_at_s"),
        _where(
            "ix_outcomes_content",
            ["version_id", "content_sha256", "recorded_at_s"],
            text("content_sha256 IS NOT NULL"),
        ),
        {"sqlite_with_rowid": False},
    )

    job_id: Mapped[uuid.UUID]
    position: Mapped[int]
    shard_id: Mapped[int] = mapped_column(BigInteger)
    #: the caller's name for the item
    key: Mapped[str | None]
    reference: Mapped[str]
    label: Mapped[str | None]
    #: calibrated probability of the label, 0 to 1
    score: Mapped[float | None]
    #: [[label, score], ...], best first
    top_k: Mapped[list[Any] | None]
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    error_stage: Mapped[str | None]
    error_kind: Mapped[str | None]
    error_message: Mapped[str | None]
    recorded_at_s: Mapped[float] = mapped_column(default=now_s())
    #: of the image's bytes, in hex; only where answers are recalled
    content_sha256: Mapped[str | None]


class Worker(Base):
    """The last heartbeat of one worker."""

    __tablename__ = "workers"
    __table_args__ = (_one_of("state", WorkerState),)

    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    role: Mapped[str]
    models: Mapped[list[Any]]
    device: Mapped[str]
    state: Mapped[WorkerState] = mapped_column(String(16))
    #: names of the versions held in memory
    warm: Mapped[list[Any]]
    message: Mapped[str | None]
    started_at_s: Mapped[float]
    heartbeat_at_s: Mapped[float]
    #: names the device itself, whatever the container is called: of a GPU its UUID, of a CPU the machine's boot id
    device_id: Mapped[str | None]
    #: by model, of late; NULL until it has worked
    images_per_s: Mapped[dict[str, Any] | None]
    #: of the process that takes messages for it, which is asked to drain
    parent_pid: Mapped[int | None]
    #: what it measures of itself, by name: bytes of memory
    readings: Mapped[dict[str, Any] | None]


class Counter(Base):
    """One sum that only rises, with its labels as a JSON object's text; workers add to it with their heartbeats."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(primary_key=True)
    labels: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]


class Drain(Base):
    """A request that a worker takes no more work; it goes when the worker starts anew, or is to take work again."""

    __tablename__ = "drains"
    __table_args__ = (PrimaryKeyConstraint("host", "parent_pid"),)

    host: Mapped[str]
    parent_pid: Mapped[int] = mapped_column(autoincrement=False)
    who: Mapped[str]
    reason: Mapped[str]
    at_s: Mapped[float] = mapped_column(default=now_s())
    #: when it held nothing any more
    drained_at_s: Mapped[float | None]


class Pause(Base):
    """Work of one kind that waits until somebody resumes it."""

    __tablename__ = "pauses"
    __table_args__ = (PrimaryKeyConstraint("model", "work"), _one_of("work", Work))

    #: or EVERY_MODEL
    model: Mapped[str]
    work: Mapped[Work] = mapped_column(String(16))
    who: Mapped[str]
    reason: Mapped[str]
    at_s: Mapped[float] = mapped_column(default=now_s())


class Removal(Base):
    """A job that is being removed, bit by bit; whoever goes on finds it here, after its own row is gone too."""

    __tablename__ = "removals"

    job_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    at_s: Mapped[float] = mapped_column(default=now_s())


class LabelSet(Base):
    """What a model is taught: its row is locked while labels are added, so that one is decided after the other."""

    __tablename__ = "label_sets"

    model: Mapped[str] = mapped_column(primary_key=True)
    #: random hex that the splits are drawn with; never changed
    salt: Mapped[str]
    #: no label adds a class any more
    is_fixed: Mapped[bool] = mapped_column(default=False)
    created_at_s: Mapped[float] = mapped_column(default=now_s())


class Class(Base):
    """One class of a model; its number is its place in the network's output, and never another's."""

    __tablename__ = "classes"
    __table_args__ = (PrimaryKeyConstraint("model", "number"), UniqueConstraint("model", "name"))

    model: Mapped[str] = mapped_column(ForeignKey("label_sets.model"))
    #: 0, 1, 2... within the model
    number: Mapped[int] = mapped_column(autoincrement=False)
    name: Mapped[str]
    #: a removed class is masked, and keeps its number
    removed_at_s: Mapped[float | None]


class Group(Base):
    """Images that must not be told apart by a split; a trigger refuses every change."""

    __tablename__ = "groups"
    __table_args__ = (UniqueConstraint("model", "key"), _one_of("split", Split))

    id: Mapped[int] = mapped_column(_SERIAL, primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("label_sets.model"))
    #: `group:` and the caller's name, or `image:` and the content hash of its first image
    key: Mapped[str]
    split: Mapped[Split] = mapped_column(String(16))
    created_at_s: Mapped[float] = mapped_column(default=now_s())


class Image(Base):
    """One image that was labelled, known by its content; a trigger refuses every change."""

    __tablename__ = "images"
    __table_args__ = (
        UniqueConstraint("model", "sha256"),
        *(Index(f"ix_images_shelf{n}", "model", f"shelf{n}") for n in range(5)),
    )

    id: Mapped[int] = mapped_column(_SERIAL, primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("label_sets.model"))
    #: hex digest of the file
    sha256: Mapped[str] = mapped_column(String(64))
    #: the 64 bits of the difference hash, as a signed number
    dhash: Mapped[int] = mapped_column(BigInteger)
    #: where near duplicates of it are looked for: see `near.shelves_of`
    shelf0: Mapped[int]
    shelf1: Mapped[int]
    shelf2: Mapped[int]
    shelf3: Mapped[int]
    shelf4: Mapped[int]
    #: 16 x 16 grey pixels
    thumbnail: Mapped[bytes | None]
    group_id: Mapped[int] = mapped_column(ForeignKey("groups.id"))
    #: content hash of the image it nearly repeats
    near_sha256: Mapped[str | None] = mapped_column(String(64))
    #: where it was first seen
    reference: Mapped[str]
    created_at_s: Mapped[float] = mapped_column(default=now_s())


class Label(Base):
    """What somebody said of an image; a trigger refuses every change, so a correction is another row."""

    __tablename__ = "labels"
    __table_args__ = (
        UniqueConstraint("model", "event_key"),
        ForeignKeyConstraint(["model", "class_number"], ["classes.model", "classes.number"]),
        Index("ix_labels_image_id", "image_id", "id"),
        Index("ix_labels_class_number", "model", "class_number", "id"),
        Index("ix_labels_model", "model", "id"),
    )

    id: Mapped[int] = mapped_column(_SERIAL, primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    model: Mapped[str]
    class_number: Mapped[int]
    who: Mapped[str]
    #: the way it came: cli, folder, label_studio...
    source: Mapped[str]
    #: where the image lay then
    reference: Mapped[str]
    #: the sender's name for this event: a second one changes nothing
    event_key: Mapped[str | None]
    at_s: Mapped[float] = mapped_column(default=now_s())


class Snapshot(Base):
    """The labels of a model at a moment, by the digest of their manifest."""

    __tablename__ = "snapshots"
    __table_args__ = (UniqueConstraint("model", "digest"),)

    id: Mapped[int] = mapped_column(_SERIAL, primary_key=True)
    model: Mapped[str]
    digest: Mapped[str]
    #: where the manifest lies
    reference: Mapped[str]
    num_images: Mapped[int]
    #: {class: {split: number of images}}
    counts: Mapped[dict[str, Any]]
    #: digest of the test images and their labels
    test_digest: Mapped[str]
    #: the newest label in it
    last_label_id: Mapped[int] = mapped_column(BigInteger)
    created_at_s: Mapped[float] = mapped_column(default=now_s())


class Run(Base):
    """One attempt to make a better version, step by step; an index allows a model one that has not ended."""

    __tablename__ = "runs"
    __table_args__ = (
        _one_of("state", RunState),
        _one_of("verdict", Verdict),
        _where("ix_runs_active", ["model"], text("state IN ('queued', 'running')"), unique=True),
        Index("ix_runs_model", "model", "id"),
    )

    id: Mapped[int] = mapped_column(_SERIAL, primary_key=True)
    model: Mapped[str]
    state: Mapped[RunState] = mapped_column(String(16), default="queued")
    verdict: Mapped[Verdict | None] = mapped_column(String(16))
    #: why it was asked for
    reason: Mapped[str]
    #: ["new_labels", "drift", ...], for the gate
    causes: Mapped[list[Any]]
    asked_by: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    #: whose backbone it starts from
    base_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    #: the champion when it was asked for
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    snapshot_id: Mapped[int | None] = mapped_column(ForeignKey("snapshots.id"))
    #: everything that was configured: recipe, thresholds, gate policy
    playbook: Mapped[dict[str, Any]]
    #: to be trained although the plan advises against it
    is_forced: Mapped[bool]
    #: the step it is in
    step: Mapped[str | None]
    progress: Mapped[dict[str, Any] | None]
    #: evidence and decision
    plan: Mapped[dict[str, Any] | None]
    #: the challenger
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    #: where the page about it lies
    report: Mapped[str | None]
    error_kind: Mapped[str | None]
    error_message: Mapped[str | None]
    lease_owner: Mapped[str | None]
    lease_until_s: Mapped[float | None]
    #: rises with every claim; a write that carries an older one is refused
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    #: claims that did not end well
    attempts: Mapped[int] = mapped_column(default=0)
    #: when a message naming it was last sent; NULL asks for one
    rung_at_s: Mapped[float | None]
    cancel_requested_at_s: Mapped[float | None]
    created_at_s: Mapped[float] = mapped_column(default=now_s())
    started_at_s: Mapped[float | None]
    finished_at_s: Mapped[float | None]


class Step(Base):
    """One step of a run; a finished one is not done again."""

    __tablename__ = "steps"
    __table_args__ = (PrimaryKeyConstraint("run_id", "name"),)

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), autoincrement=False)
    name: Mapped[str]
    started_at_s: Mapped[float] = mapped_column(default=now_s())
    finished_at_s: Mapped[float | None]
    #: what later steps need of it
    result: Mapped[dict[str, Any] | None]


class Gate(Base):
    """One comparison of a challenger with the champion."""

    __tablename__ = "gates"
    __table_args__ = (_one_of("verdict", GateVerdict), Index("ix_gates_run_id", "run_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    challenger_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    champion_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    #: digest of the test images and their labels
    test_digest: Mapped[str]
    verdict: Mapped[GateVerdict] = mapped_column(String(16))
    reason: Mapped[str]
    #: every number the verdict rests on
    numbers: Mapped[dict[str, Any]]
    at_s: Mapped[float] = mapped_column(default=now_s())


class Tick(Base):
    """What the scheduler decided: equal refusals in a row are one row, which counts them."""

    __tablename__ = "ticks"
    __table_args__ = (Index("ix_ticks_model", "model", "id"),)

    id: Mapped[int] = mapped_column(_SERIAL, primary_key=True)
    model: Mapped[str]
    is_fired: Mapped[bool]
    reason: Mapped[str]
    #: what the decision rested on, at the last of them
    facts: Mapped[dict[str, Any]]
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id"))
    first_at_s: Mapped[float] = mapped_column(default=now_s())
    last_at_s: Mapped[float] = mapped_column(default=now_s())
    num_ticks: Mapped[int] = mapped_column(default=1)


class LiveCheck(Base):
    """The watch over a version after its promotion; one for each."""

    __tablename__ = "live_checks"
    __table_args__ = (UniqueConstraint("model", "promotion_epoch"), _one_of("state", LiveCheckState))

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str]
    promotion_epoch: Mapped[int] = mapped_column(BigInteger)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    #: what it goes back to
    previous_version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    #: the job that has recent items classified again
    replay_job_id: Mapped[uuid.UUID | None]
    state: Mapped[LiveCheckState] = mapped_column(String(16), default="watching")
    numbers: Mapped[dict[str, Any]]
    reason: Mapped[str | None]
    began_at_s: Mapped[float] = mapped_column(default=now_s())
    ended_at_s: Mapped[float | None]


class DriftWindow(Base):
    """One stretch of a version's recorded predictions, compared with what it said of the test images."""

    __tablename__ = "drift_windows"
    __table_args__ = (UniqueConstraint("model", "version_id", "after_s"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str]
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    #: the window is open here and closed at `until_s`
    after_s: Mapped[float]
    until_s: Mapped[float]
    num_items: Mapped[int]
    #: smallest p of the columns' tests
    min_p: Mapped[float]
    is_alarm: Mapped[bool]
    at_s: Mapped[float] = mapped_column(default=now_s())


class Proposal(Base):
    """An image that a person should look at: one to label, or one whose label is doubted."""

    __tablename__ = "proposals"
    __table_args__ = (_one_of("kind", ProposalKind), Index("ix_proposals_model", "model", "kind", "rank"))

    id: Mapped[int] = mapped_column(_SERIAL, primary_key=True)
    model: Mapped[str]
    kind: Mapped[ProposalKind] = mapped_column(String(16))
    #: 0 is the first to look at
    rank: Mapped[int]
    reference: Mapped[str]
    #: of the image's bytes when it was proposed
    sha256: Mapped[str] = mapped_column(String(64))
    #: typical, margin, random; suspect
    why: Mapped[str]
    #: what put it there, as the reason has it
    score: Mapped[float | None]
    #: the label it has
    label: Mapped[str | None]
    #: the label it may deserve
    suggested: Mapped[str | None]
    #: of that label, 0 to 1
    probability: Mapped[float | None]
    #: the part it belongs to: train, val, test
    split: Mapped[str | None]
    #: `model:number` of the version that looked
    version: Mapped[str]
    #: the model's newest label then: what was labelled later is settled
    last_label_id: Mapped[int] = mapped_column(BigInteger)
    proposed_at_s: Mapped[float] = mapped_column(default=now_s())
    #: when a person said something about it
    settled_at_s: Mapped[float | None]


class ApiKey(Base):
    """A key that callers of HTTP show; several of one name are one caller."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    #: who calls with it: the `caller` of its jobs
    name: Mapped[str]
    #: hex digest of the key, which itself is kept nowhere
    sha256: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]]
    created_at_s: Mapped[float] = mapped_column(default=now_s())
    #: NULL never expires
    expires_at_s: Mapped[float | None]
    revoked_at_s: Mapped[float | None]
    last_used_at_s: Mapped[float | None]


Value = TypeVar("Value", bound="DataclassInstance")


def copied(kind: type[Value], row: Base, **rest: object) -> Value:
    """Make a value of a row's columns, by the names of its fields; `rest` gives those that differ."""
    columns = {field.name: getattr(row, field.name) for field in fields(kind) if field.name not in rest}
    return kind(**columns, **rest)
