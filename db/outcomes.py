"""Outcomes: what became of each item.

Takes outcomes in bulk. Gives them back a page at a time, or all of them in constant memory.
Knows nothing of leases or counters; `leases.finish` calls it inside its transaction.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from db import models
from db import session as database

#: characters kept of an error's message
MAX_MESSAGE = 500
#: rows `stream` holds at a time
PAGE = 1000
#: what `_row` gives, in its order
COLUMNS = (
    "job_id", "position", "shard_id", "key", "reference", "label", "score", "top_k", "version_id", "error_stage",
    "error_kind", "error_message", "recorded_at_s", "content_sha256",
)  # fmt: skip

_NO_ERROR = (None, None, None)
_as_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFailure:
    """Why an item has no label."""

    #: where it failed: fetch, decode, forward
    stage: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one item: a label with its score, or an error."""

    #: index of the item in its job, from 0
    position: int
    key: str | None
    reference: str
    label: str | None = None
    #: probability, 0 to 1
    score: float | None = None
    #: (label, score), best first
    top_k: tuple[tuple[str, float], ...] = ()
    version_id: int | None = None
    error: ItemFailure | None = None
    #: of the image's bytes, in hex; only where answers are recalled
    content_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(Outcome):
    """An outcome as the ledger holds it."""

    job_id: uuid.UUID
    #: `model:number`
    version: str | None
    recorded_at_s: float


def insert(session: Session, job_id: uuid.UUID, shard_id: int, outcomes: Sequence[Outcome]) -> None:
    """Write a shard's outcomes; a second outcome for an item violates the primary key."""
    insert_all(session, [(job_id, shard_id, outcomes)], at_s=database.clock(session))


def insert_all(session: Session, shards: Iterable[tuple[uuid.UUID, int, Sequence[Outcome]]], *, at_s: float) -> None:
    """Write the outcomes of several shards, given as (job id, shard id, outcomes), all recorded at one moment."""
    rows = [
        row
        for job_id, shard_id, outcomes in shards
        for row in _rows(database.spelled(session, job_id), shard_id, outcomes, at_s)
    ]
    database.insert_rows(session, models.Outcome, COLUMNS, rows)


def page(
    session: Session, job_id: uuid.UUID, *, after: int = -1, limit: int, errors: bool | None = None
) -> list[Recorded]:
    """Read up to `limit` outcomes past position `after`, in order; `errors` keeps errors or labels alone."""
    row, version = models.Outcome, models.version_name()
    chosen = (
        select(row, version)
        .outerjoin(models.Version, models.Version.id == row.version_id)
        .where(row.job_id == job_id, row.position > after)
        .order_by(row.position)
        .limit(limit)
    )
    return [recorded(found, name) for found, name in session.execute(_only(chosen, errors))]


def stream(session: Session, job_id: uuid.UUID, *, errors: bool | None = None) -> Iterator[Recorded]:
    """Read all outcomes of a job in order, a page in memory at a time."""
    after = -1
    while found := page(session, job_id, after=after, limit=PAGE, errors=errors):
        yield from found
        after = found[-1].position


def recorded_since(
    session: Session,
    model: str,
    version_id: int,
    after_s: float,
    limit: int,
    *,
    is_newest_first: bool = False,
    errors: bool | None = None,
) -> list[Recorded]:
    """Read up to `limit` outcomes of a model's version that were recorded after a time, oldest first by default.

    One walk of an index, from `after_s` on or from the newest back; `errors` keeps errors or labels alone. Outcomes
    of one moment may be cut apart by the limit.
    """
    row, version = models.Outcome, models.Version
    chosen = (
        select(row, models.version_name())
        .join(version, version.id == row.version_id)
        .where(row.version_id == version_id, version.model == model, row.recorded_at_s > after_s)
        .order_by(row.recorded_at_s.desc() if is_newest_first else row.recorded_at_s)
        .limit(limit)
    )
    return [recorded(found, name) for found, name in session.execute(_only(chosen, errors))]


def last_of_content(session: Session, version_id: int, sha256: str) -> tuple[tuple[str, float], ...]:
    """Give what a version last said of an image with these bytes, as (label, score), best first; empty if nothing."""
    row = models.Outcome
    found = session.scalar(
        select(row.top_k)
        .where(row.version_id == version_id, row.content_sha256 == sha256, row.label.is_not(None))
        .order_by(row.recorded_at_s.desc())
        .limit(1)
    )
    return tuple((label, score) for label, score in found or ())


def _only(chosen: Select[models.Outcome, str], errors: bool | None) -> Select[models.Outcome, str]:
    if errors is None:
        return chosen
    kind = models.Outcome.error_kind
    return chosen.where(kind.is_not(None) if errors else kind.is_(None))


def _rows(job_id: str, shard_id: int, outcomes: Sequence[Outcome], at_s: float) -> Iterator[tuple[object, ...]]:
    for one in outcomes:
        top_k = _as_json(one.top_k) if one.top_k else None
        error = _NO_ERROR if one.error is None else _error(one.error)
        yield (
            job_id, one.position, shard_id, one.key, one.reference, one.label, one.score, top_k, one.version_id, *error,
            at_s, one.content_sha256,
        )  # fmt: skip


def _error(error: ItemFailure) -> tuple[str, str, str]:
    return error.stage, error.kind, _storable(error.message)


def _storable(message: str) -> str:
    # Messages quote file names: PostgreSQL refuses NUL, and UTF-8 has no lone surrogates.
    return message[:MAX_MESSAGE].replace("\0", "\ufffd").encode(errors="replace").decode()


def recorded(row: models.Outcome, version: str | None) -> Recorded:
    """Make a value of an outcome's row and the name of its version."""
    error = None
    if row.error_kind is not None:
        error = ItemFailure(stage=row.error_stage or "", kind=row.error_kind, message=row.error_message or "")
    return Recorded(
        job_id=row.job_id,
        position=row.position,
        key=row.key,
        reference=row.reference,
        label=row.label,
        score=row.score,
        top_k=tuple((label, score) for label, score in row.top_k or ()),
        version_id=row.version_id,
        error=error,
        content_sha256=row.content_sha256,
        version=version,
        recorded_at_s=row.recorded_at_s,
    )
