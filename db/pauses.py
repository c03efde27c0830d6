"""Pauses: work that is accepted and waits, because an operator says so.

Takes a model, or all, and what of it is to wait. Gives the pauses there are, and the conditions under which work waits.
Knows nothing of workers: what they hold they finish.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import get_args

from sqlalchemy import ColumnElement, delete, exists, literal, or_, select, update
from sqlalchemy.orm import QueryableAttribute, Session

from db import session as database
from db.models import EVERY_MODEL, Pause, Priority, Shard, Work, copied
from db.session import now_s

#: all that a model does
ALL_WORK: tuple[Work, ...] = get_args(Work)
#: shards that are rung for at once when work goes on; a worker that sits finds the others by itself
MAX_BELLS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """What waits, and why."""

    #: or EVERY_MODEL
    model: str
    work: Work
    who: str
    reason: str
    #: epoch seconds
    at_s: float


def pause(session: Session, model: str, works: Iterable[Work], *, who: str, reason: str) -> None:
    """Let work wait from now on; what is paused already gets the new reason and keeps its time."""
    for work in works:
        paused = database.insert(session, Pause).values(model=model, work=work, who=who, reason=reason, at_s=now_s())
        again = {"who": who, "reason": reason}
        session.execute(paused.on_conflict_do_update(index_elements=[Pause.model, Pause.work], set_=again))


def resume(session: Session, model: str, works: Iterable[Work]) -> list[Paused]:
    """Let work of a model, or of EVERY_MODEL and each there is, go on; the next sweep rings for it. Gives what waited.

    What EVERY_MODEL's pause holds back is not resumed by a model's name.
    """
    ended = delete(Pause).where(Pause.work.in_(list(works)))
    if model != EVERY_MODEL:
        ended = ended.where(Pause.model == model)
    resumed = [copied(Paused, found) for found in session.scalars(ended.returning(Pause))]
    if resumed:
        _ask_for_bells(session, model)
    return sorted(resumed, key=lambda one: (one.model, one.work))


def pauses(session: Session, model: str | None = None) -> list[Paused]:
    """List what is paused, of one model alone if one is given, with what holds for every model."""
    chosen = select(Pause).order_by(Pause.model, Pause.work)
    if model is not None:
        chosen = chosen.where(Pause.model.in_((model, EVERY_MODEL)))
    return [copied(Paused, found) for found in session.scalars(chosen)]


@cache
def is_shard_paused() -> ColumnElement[bool]:
    """Hold where a shard is to wait; built once, for each claim asks it and building takes longer than asking."""
    return _holds(Shard.priority, Shard.model)


@cache
def is_paused(model: str, priority: Priority) -> ColumnElement[bool]:
    """Hold while work of a model and priority is to wait: asked once in a statement, not of each shard."""
    return exists(select(Pause.work).where(Pause.work == literal(priority), Pause.model.in_((model, EVERY_MODEL))))


def is_learning_paused(model: QueryableAttribute[str]) -> ColumnElement[bool]:
    """Hold where no run of a model is to begin."""
    return _holds("learning", model)


def _holds(work: "Work | QueryableAttribute[Priority]", model: QueryableAttribute[str]) -> ColumnElement[bool]:
    return exists().where(Pause.work == work, or_(Pause.model == model, Pause.model == EVERY_MODEL))


def _ask_for_bells(session: Session, model: str) -> None:
    """Forget that the oldest shards were rung for: the bells came to nothing while they were paused."""
    oldest = select(Shard.id).where(Shard.state == "waiting", Shard.rung_at_s.is_not(None))
    if model != EVERY_MODEL:
        oldest = oldest.where(Shard.model == model)
    chosen = oldest.order_by(Shard.id).limit(MAX_BELLS).with_for_update(skip_locked=True)
    session.execute(update(Shard).where(Shard.id.in_(session.scalars(chosen).all())).values(rung_at_s=None))
