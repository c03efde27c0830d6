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
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Text,
    TextClause,
    UniqueConstraint,
    cast,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.session import now_s

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

JobState = Literal["receiving", "accepted", "running", "succeeded", "partial", "failed", "cancelled", "expired"]
ShardState = Literal["waiting", "claimed", "done", "split", "dropped"]
WorkerState = Literal["starting", "ready", "busy", "setup_failed", "stopped"]
Priority = Literal["interactive", "bulk"]
Source = Literal["import", "demo", "run"]
PromotionKind = Literal["promote", "rollback"]

#: states in which a job's shards may be claimed
WORKING: tuple[JobState, ...] = ("accepted", "running")
#: states a job has not ended in
OPEN: tuple[JobState, ...] = ("receiving", *WORKING)

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


def _where(name: str, columns: Iterable[str], condition: TextClause) -> Index:
    return Index(name, *columns, postgresql_where=condition, sqlite_where=condition)


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


class Outcome(Base):
    """What became of one item: a label or an error, never both; enough columns to be read alone."""

    __tablename__ = "outcomes"
    __table_args__ = (
        PrimaryKeyConstraint("job_id", "position"),
        CheckConstraint("(label IS NULL) <> (error_kind IS NULL)", name="label_or_error"),
        _where("ix_outcomes_errors", ["job_id", "position"], text("error_kind IS NOT NULL")),
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


Value = TypeVar("Value", bound="DataclassInstance")


def copied(kind: type[Value], row: Base, **rest: object) -> Value:
    """Make a value of a row's columns, by the names of its fields; `rest` gives those that differ."""
    columns = {field.name: getattr(row, field.name) for field in fields(kind) if field.name not in rest}
    return kind(**columns, **rest)
