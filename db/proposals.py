"""Proposals: images that a person should look at, and which of them still wait.

Takes what a look at a model's images or labels proposed. Gives it back one by one, until a person has said something.
Knows nothing of how a proposal comes about, or of what a label is worth.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.orm import Session

from db import models
from db.models import Image, Label, ProposalKind, copied
from db.session import now_s
from db.standings import last

_ROW = models.Proposal


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProposal:
    """An image to look at, as whoever proposes it has it."""

    reference: str
    #: of the image's bytes
    sha256: str
    #: typical, margin, random; suspect
    why: str
    #: what put it there, as the reason has it
    score: float | None = None
    #: the label it has
    label: str | None = None
    #: the label it may deserve
    suggested: str | None = None
    #: of that label, 0 to 1
    probability: float | None = None
    #: the part it belongs to
    split: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal(NewProposal):
    """A proposal as the ledger holds it; times are epoch seconds."""

    id: int
    model: str
    kind: ProposalKind
    #: 0 is the first to look at
    rank: int
    #: `model:number` of the version that looked
    version: str
    proposed_at_s: float
    settled_at_s: float | None


def replace(session: Session, model: str, kind: ProposalKind, version: str, new: Sequence[NewProposal]) -> None:
    """Put these in the place of what was proposed before, best first.

    A label that a person has confirmed meanwhile stays settled: the same doubt is not put to anybody twice.
    """
    old = session.execute(delete(_ROW).where(_of(model, kind)).returning(_ROW.sha256, _ROW.label, _ROW.settled_at_s))
    settled = {(sha256, label): at_s for sha256, label, at_s in old if at_s is not None}
    seen = last(session, model)
    session.add_all(
        _ROW(
            model=model, kind=kind, rank=rank, version=version, last_label_id=seen,
            settled_at_s=settled.get((one.sha256, one.label)), **asdict(one),
        )
        for rank, one in enumerate(new)
    )  # fmt: skip
    session.flush()


def next_waiting(session: Session, model: str, kind: ProposalKind, *, after: int = -1) -> Proposal | None:
    """Read the first proposal behind a rank that nobody has said anything about yet."""
    waiting = select(_ROW).where(_of(model, kind), _ROW.rank > after, _waits()).order_by(_ROW.rank, _ROW.id).limit(1)
    found = session.scalar(waiting)
    return None if found is None else copied(Proposal, found)


def num_waiting(session: Session, model: str, kind: ProposalKind) -> int:
    """Count the proposals that nobody has said anything about yet."""
    return session.execute(select(func.count()).select_from(_ROW).where(_of(model, kind), _waits())).scalar_one()


def by_id(session: Session, proposal_id: int) -> Proposal | None:
    """Read one proposal; None where it was replaced meanwhile."""
    found = session.scalar(select(_ROW).where(_ROW.id == proposal_id))
    return None if found is None else copied(Proposal, found)


def settle(session: Session, proposal_id: int) -> None:
    """Note that a person has said something about a proposal."""
    session.execute(update(_ROW).where(_ROW.id == proposal_id).values(settled_at_s=now_s()))


def _of(model: str, kind: ProposalKind) -> ColumnElement[bool]:
    return (_ROW.model == model) & (_ROW.kind == kind)


def _waits() -> ColumnElement[bool]:
    image = exists().where(Image.model == _ROW.model, Image.sha256 == _ROW.sha256, Label.image_id == Image.id)
    return _ROW.settled_at_s.is_(None) & ~image.where(Label.id > _ROW.last_label_id)
