"""Doubts: recorded outcomes of which a version was least sure, straight from what is recorded.

Takes a version. Gives items by how near its second label came to its first, of those recorded last.
Knows nothing of features or of what a label would teach.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Float, func, select
from sqlalchemy.orm import Session

from db import models
from db.session import among

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


def least_sure(session: Session, model: str, version_id: int, *, limit: int) -> list[Doubt]:
    """List up to `limit` images without a label that the version last answered, the most doubtful first.

    An image that occurs in several jobs is listed once.
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
    chosen = select(recent, margin).order_by(margin, recent.c.job_id, recent.c.position)
    found = {one.reference: one for one in reversed(session.execute(chosen).all())}
    doubts = [_doubt(*one) for one in reversed(found.values())]
    return _unlabelled(session, model, doubts)[:limit]


def _doubt(
    job_id: uuid.UUID, position: int, reference: str, label: str, score: float, top_k: list[list[float]], margin: float
) -> Doubt:
    pairs = tuple((str(name), float(value)) for name, value in top_k)
    return Doubt(
        job_id=job_id, position=position, reference=reference, label=label, score=score, margin=margin, top_k=pairs
    )


def _unlabelled(session: Session, model: str, doubts: Sequence[Doubt]) -> list[Doubt]:
    labelled = _labelled(session, model, (one.reference for one in doubts))
    return [one for one in doubts if one.reference not in labelled]


def _labelled(session: Session, model: str, references: Iterable[str]) -> set[str]:
    row = models.Label
    chosen = select(row.reference).where(row.model == model, among(session, row.reference, references))
    return set(session.scalars(chosen))
