"""Windows: stretches of recorded predictions, and whether each looked like the test images.

Takes what was found about a stretch. Gives the newest of a model.
Knows nothing of how drift is measured, or of what follows from it.
"""

from dataclasses import asdict, dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import models
from db import session as database
from db.models import copied


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWindow:
    """What was found about a stretch of a version's predictions."""

    model: str
    version_id: int
    #: epoch seconds; the stretch is open at its start and closed at its end
    after_s: float
    until_s: float
    num_items: int
    #: smallest p of the columns' tests
    min_p: float
    is_alarm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(NewWindow):
    """A stretch as the ledger holds it."""

    id: int
    at_s: float


def record(session: Session, new: NewWindow) -> Window:
    """Write a stretch down; one with the same start, looked at by two at once, is the row that is there."""
    row = models.DriftWindow
    written = database.insert(session, row).values(**asdict(new)).on_conflict_do_nothing()
    there = select(row).where(row.model == new.model, row.version_id == new.version_id, row.after_s == new.after_s)
    return copied(Window, session.scalar(written.returning(row)) or session.scalars(there).one())


def recent(session: Session, model: str, *, limit: int, version_id: int | None = None) -> list[Window]:
    """List up to `limit` stretches of a model, or of one of its versions, newest first."""
    row = models.DriftWindow
    newest = select(row).where(row.model == model).order_by(row.until_s.desc(), row.id.desc()).limit(limit)
    if version_id is not None:
        newest = newest.where(row.version_id == version_id)
    return [copied(Window, found) for found in session.scalars(newest)]
