"""Galleries: a job's outcomes as a person looks through them, filtered, sorted and a page at a time.

Takes a job's id, a choice and a place in it. Gives the page behind or before that place, and what there is to choose.
Knows nothing of pixels. A page is found by the place it begins at, never by counting rows from the first.
"""

import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session

from db import outcomes
from db.models import Outcome, Version, version_name
from db.outcomes import Recorded

#: by place in the job; the surest label first; the least sure first
Order = Literal["position", "surest", "doubtful"]
Only = Literal["labels", "errors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which outcomes are looked at, and in which order."""

    order: Order = "position"
    #: labels or errors alone
    only: Only | None = None
    label: str | None = None
    #: fetch, decode, forward...
    error_stage: str | None = None
    #: score from and to, both included
    lowest: float | None = None
    highest: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An outcome in an order: pages lie behind it or before it."""

    position: int
    #: None where there is no label, and where the order is by position
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some outcomes in a row, and whether there are more on either side."""

    shown: tuple[Recorded, ...]
    is_first: bool
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many outcomes a job has of each kind."""

    #: label -> number, the most frequent first
    labels: dict[str, int]
    #: (stage, kind) of an error -> number, the most frequent first
    errors: dict[tuple[str, str], int]


def page(
    session: Session, job_id: uuid.UUID, choice: Choice, *, limit: int, after: Place | None = None,
    before: Place | None = None,
) -> Page:  # fmt: skip
    """Read up to `limit` outcomes behind one place, or before another; from the first where none is given."""
    is_backward = before is not None
    descends = (choice.order == "surest") is not is_backward
    chosen = _chosen(job_id, choice)
    if (place := before or after) is not None:
        chosen = chosen.where(_beyond(place, choice, descends=descends, is_backward=is_backward))
    found = list(session.execute(_ordered(chosen, choice, descends=descends, is_backward=is_backward).limit(limit + 1)))
    shown = [outcomes.recorded(row, version) for row, version in found[:limit]]
    has_more = len(found) > limit
    if is_backward:
        return Page(shown=tuple(reversed(shown)), is_first=not has_more, is_last=False)
    return Page(shown=tuple(shown), is_first=after is None, is_last=not has_more)


def one(session: Session, job_id: uuid.UUID, position: int) -> Recorded | None:
    """Read the outcome of one item, if it has one yet."""
    chosen = _chosen(job_id, Choice()).where(Outcome.position == position)
    found = session.execute(chosen).one_or_none()
    return None if found is None else outcomes.recorded(*found)


def tally(session: Session, job_id: uuid.UUID) -> Tally:
    """Count a job's outcomes by label and by error: one walk over all of them."""
    kinds = (Outcome.label, Outcome.error_stage, Outcome.error_kind)
    counted = select(*kinds, func.count()).where(Outcome.job_id == job_id).group_by(*kinds)
    labels, errors = Counter[str](), Counter[tuple[str, str]]()
    for label, stage, kind, num in session.execute(counted):
        if label is not None:
            labels[label] += num
        else:
            errors[stage or "", kind or ""] += num
    return Tally(labels=dict(labels.most_common()), errors=dict(errors.most_common()))


def _chosen(job_id: uuid.UUID, choice: Choice) -> Select[Outcome, str]:
    row = Outcome
    wanted: list[ColumnElement[bool]] = [row.job_id == job_id]
    if choice.only == "errors" or choice.error_stage is not None:
        wanted.append(row.error_kind.is_not(None))
    if choice.only == "labels" or choice.order != "position":
        wanted.append(row.label.is_not(None))
    if choice.label is not None:
        wanted.append(row.label == choice.label)
    if choice.error_stage is not None:
        wanted.append(row.error_stage == choice.error_stage)
    if choice.lowest is not None:
        wanted.append(row.score >= choice.lowest)
    if choice.highest is not None:
        wanted.append(row.score <= choice.highest)
    return select(row, version_name()).outerjoin(Version, Version.id == row.version_id).where(*wanted)


def _ordered(
    chosen: Select[Outcome, str], choice: Choice, *, descends: bool, is_backward: bool
) -> Select[Outcome, str]:
    position = Outcome.position.desc() if is_backward else Outcome.position
    if choice.order == "position":
        return chosen.order_by(position)
    return chosen.order_by(Outcome.score.desc() if descends else Outcome.score, position)


def _beyond(place: Place, choice: Choice, *, descends: bool, is_backward: bool) -> ColumnElement[bool]:
    row = Outcome
    further = row.position < place.position if is_backward else row.position > place.position
    if choice.order == "position" or place.score is None:
        return further
    poorer = row.score < place.score if descends else row.score > place.score
    return or_(poorer, and_(row.score == place.score, further))
