"""Live checks: the watch over a version after its promotion.

Takes promotions to be watched, and what is seen of them. Gives those that are being watched, and how each ended.
Knows nothing of what makes a version fail; taking it back is the registry's.
"""

import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import models
from db import session as database
from db.models import LiveCheckState, copied
from db.session import now_s


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCheck:
    """A promotion to be watched."""

    model: str
    promotion_epoch: int
    version_id: int
    #: what it goes back to
    previous_version_id: int
    #: the job that has recent items classified again
    replay_job_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCheck(NewCheck):
    """A watch as the ledger holds it."""

    id: int
    state: LiveCheckState
    #: what was seen so far
    numbers: dict[str, Any]
    #: why it ended as it did
    reason: str | None
    began_at_s: float
    ended_at_s: float | None


def begin(session: Session, new: NewCheck) -> LiveCheck | None:
    """Begin to watch a promotion; None where somebody does already, or did."""
    row = models.LiveCheck
    begun = database.insert(session, row).values(**asdict(new), numbers={}).on_conflict_do_nothing()
    found = session.scalar(begun.returning(row))
    return None if found is None else copied(LiveCheck, found)


def watching(session: Session, model: str | None = None) -> list[LiveCheck]:
    """List the watches that have not ended, oldest first."""
    row = models.LiveCheck
    chosen = select(row).where(row.state == "watching").order_by(row.id)
    if model is not None:
        chosen = chosen.where(row.model == model)
    return _checks(session.scalars(chosen))


def note(
    session: Session, check_id: int, *, numbers: dict[str, Any] | None = None, replay_job_id: uuid.UUID | None = None
) -> bool:
    """Write down what was seen so far, or the job that replays; False if the watch has ended."""
    given = {"numbers": numbers, "replay_job_id": replay_job_id}
    return _change(session, check_id, {name: value for name, value in given.items() if value is not None})


def end(
    session: Session,
    check_id: int,
    *,
    state: Literal["passed", "rolled_back"],
    numbers: dict[str, Any],
    reason: str,
) -> bool:
    """End a watch; False if somebody else has, and then the rest is theirs too."""
    return _change(session, check_id, {"state": state, "numbers": numbers, "reason": reason, "ended_at_s": now_s()})


def latest(session: Session, model: str) -> LiveCheck | None:
    """Read the watch over a model's last promotion that was watched."""
    row = models.LiveCheck
    chosen = select(row).where(row.model == model).order_by(row.promotion_epoch.desc()).limit(1)
    return next(iter(_checks(session.scalars(chosen))), None)


def _change(session: Session, check_id: int, columns: dict[str, object]) -> bool:
    row = models.LiveCheck
    changed = update(row).where(row.id == check_id, row.state == "watching").values(columns)
    return session.scalar(changed.returning(row.id)) is not None


def _checks(rows: Iterable[models.LiveCheck]) -> list[LiveCheck]:
    return [copied(LiveCheck, row) for row in rows]
