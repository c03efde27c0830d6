"""Gates: each comparison of a challenger with the champion, with every number it rests on.

Takes verdicts. Gives them back by run and by model.
Knows nothing of how a verdict is reached, or of what is done with it.
"""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Select, insert, select
from sqlalchemy.orm import Session, aliased

from db import models
from db.models import GateVerdict, copied, version_name


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGate:
    """A verdict, to be recorded."""

    #: None for a comparison that somebody asked for by hand
    run_id: int | None
    challenger_id: int
    #: None where nothing served yet
    champion_id: int | None
    #: digest of the test images and their labels
    test_digest: str
    verdict: GateVerdict
    #: one sentence
    reason: str
    #: every number the verdict rests on
    numbers: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate(NewGate):
    """A verdict as the ledger holds it."""

    id: int
    #: `model:number`
    challenger: str
    champion: str | None
    at_s: float


def record(session: Session, new: NewGate) -> Gate:
    """Write a verdict down."""
    gate_id = session.scalars(insert(models.Gate).values(**asdict(new)).returning(models.Gate.id)).one()
    return by_id(session, gate_id)


def by_id(session: Session, gate_id: int) -> Gate:
    """Read the verdict that a promotion points to."""
    return _gate(*session.execute(_gates().where(models.Gate.id == gate_id)).one())


def by_run(session: Session, run_id: int) -> Gate | None:
    """Read the last verdict of a run."""
    return _newest(session, _gates().where(models.Gate.run_id == run_id))


def on_version(session: Session, version_id: int) -> Gate | None:
    """Read the last verdict on a version."""
    return _newest(session, _gates().where(models.Gate.challenger_id == version_id))


def on_versions(session: Session, model: str) -> dict[int, Gate]:
    """Read the last verdict on each version of a model that came before the gate, by the version's id."""
    found = session.execute(_gates().where(models.Version.model == model).order_by(models.Gate.id))
    return {gate.challenger_id: gate for gate in (_gate(*one) for one in found)}


def latest(session: Session, model: str) -> Gate | None:
    """Read the last verdict on a version of a model."""
    return _newest(session, _gates().where(models.Version.model == model))


def _gates() -> Select[models.Gate, str, str]:
    row, champion = models.Gate, aliased(models.Version)
    return (
        select(row, version_name(), version_name(champion))
        .join(models.Version, models.Version.id == row.challenger_id)
        .outerjoin(champion, champion.id == row.champion_id)
    )


def _newest(session: Session, gates: Select[models.Gate, str, str]) -> Gate | None:
    found = session.execute(gates.order_by(models.Gate.id.desc()).limit(1)).one_or_none()
    return found and _gate(*found)


def _gate(row: models.Gate, challenger: str, champion: str | None) -> Gate:
    return copied(Gate, row, challenger=challenger, champion=champion)
