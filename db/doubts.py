"""Doubts: recorded outcomes of which a version was least sure, straight from what is recorded.

Takes a version. Gives items by how near its second label came to its first, of those recorded last.
Knows nothing of features or of what a label would teach.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Float, func, select
from sqlalchemy.orm import Session

from db import models, outcomes
from db.session import among

#: margin, job and position: where a doubt stands in its list
Place = tuple[float, str, int]

#: recorded outcomes that are looked at, the newest first
MOST_RECENT = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """An item that a version wavered about."""

    job_id: uuid.UUID
    position: int
    reference: str
    label: str
    #: probability of the label, 0 to 1
    score: float
    #: that minus the probability of the second label
    margin: float
    #: (label, score), best first
    top_k: tuple[tuple[str, float], ...]


def least_sure(
    session: Session, model: str, version_id: int, *, limit: int, behind: Place | None = None
) -> list[Doubt]:
    """List up to `limit` images without a label that the version last answered, the most doubtful first.

    An image that occurs in several jobs is listed once. `behind` leaves out what comes before a place, and the place.
    """
    row = models.Outcome
    recent = (
        select(row.job_id, row.position, row.reference, row.label, row.score, row.top_k)
        .where(row.version_id == version_id, row.label.is_not(None))
        .order_by(row.recorded_at_s.desc())
        .limit(MOST_RECENT)
        .subquery()
    )
    second = func.coalesce(recent.c.top_k[(1, 1)].as_string().cast(Float), 0.0)
    margin = (recent.c.score - second).label("margin")
    listed = select(recent.c.job_id, recent.c.position, recent.c.reference, margin)
    found = session.execute(listed.order_by(margin, recent.c.job_id, recent.c.position)).all()
    # The first of each reference: its smallest margin.
    places = {reference: (margin, str(job_id), position) for job_id, position, reference, margin in reversed(found)}
    waiting = [name for name in reversed(places) if behind is None or places[name] > behind]
    labelled = _labelled(session, model, waiting)
    chosen = [places[name] for name in waiting if name not in labelled][:limit]
    return [doubt for place in chosen if (doubt := _doubt(session, place)) is not None]


def _doubt(session: Session, place: Place) -> Doubt | None:
    margin, job_id, position = place
    row = models.Outcome
    chosen = select(row).where(row.job_id == uuid.UUID(job_id), row.position == position)
    written = session.scalars(chosen).one_or_none()
    if written is None:  # gone since the list was made
        return None
    found = outcomes.recorded(written, None)
    return Doubt(
        job_id=found.job_id,
        position=position,
        reference=found.reference,
        label=found.label or "",
        score=found.score or 0.0,
        margin=margin,
        top_k=found.top_k,
    )


def _labelled(session: Session, model: str, references: Iterable[str]) -> set[str]:
    row = models.Label
    chosen = select(row.reference).where(row.model == model, among(session, row.reference, references))
    return set(session.scalars(chosen))
