"""The registry: versions of models, and the one of each that serves.

Takes checkpoints' cards and promotions. Gives versions by name, the serving pointer and its history.
Knows nothing of weights, or of whether a promotion was wise.
"""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, aliased

from db import errors
from db import models as rows
from db import session as database
from db.models import PromotionKind, Source, copied, version_name


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A finished checkpoint, to be numbered."""

    model: str
    arch: str
    num_classes: int
    #: the checkpoint folder
    reference: str
    #: hex digest of the weights
    sha256: str
    source: Source
    parent_id: int | None
    metrics: dict[str, Any]
    num_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Version(NewVersion):
    """A registered checkpoint."""

    id: int
    #: 1, 2, 3... within the model
    number: int
    created_at_s: float

    @property
    def name(self) -> str:
        """Spell it as everybody outside the ledger does: `model:number`."""
        return f"{self.model}:{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Where a model's serving pointer stands."""

    version: Version
    #: moves by one at each promotion; 0 stands for none yet
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """One move of a serving pointer."""

    model: str
    epoch: int
    kind: PromotionKind
    version_id: int
    #: `model:number`
    version: str
    previous: str | None
    who: str
    reason: str
    at_s: float
    #: somebody promoted it although the gate did not
    is_forced: bool
    #: the verdict it rests on
    gate_id: int | None


def register(session: Session, new: NewVersion) -> Version:
    """Give a checkpoint its model's next number."""
    row = rows.Version
    number = select(func.coalesce(func.max(row.number), 0) + 1).where(row.model == new.model)
    numbered = database.insert(session, row).values(**asdict(new), number=number.scalar_subquery())
    # Somebody registering at the same time may take the number: then this waits for them and takes the next.
    while (found := session.scalar(numbered.on_conflict_do_nothing().returning(row))) is None:
        pass
    return copied(Version, found)


def version(session: Session, name: str) -> Version:
    """Read a version by `model:number`, or the serving one by `model`.

    Raises UnknownVersion and UnknownModel.
    """
    model, _, number = name.rpartition(":")
    if not model:
        serves = serving(session, name)
        if serves is None:
            raise errors.UnknownModel(f"No version of a model {name!r} serves; import one: imagemill models import.")
        return serves.version
    row = rows.Version
    found = None
    if number.isdecimal() and len(number) < 10:  # more does not fit the column
        found = session.scalar(select(row).where(row.model == model, row.number == int(number)))
    if found is None:
        raise errors.UnknownVersion(f"There is no version {name!r}.")
    return copied(Version, found)


def versions(session: Session, model: str | None = None) -> list[Version]:
    """List the versions of a model, or of all, newest number first."""
    row = rows.Version
    chosen = select(row).order_by(row.model, row.number.desc())
    if model is not None:
        chosen = chosen.where(row.model == model)
    return [copied(Version, found) for found in session.scalars(chosen)]


def models(session: Session) -> list[str]:
    """List the models that have a version, by name."""
    return list(session.scalars(select(rows.Version.model).distinct().order_by(rows.Version.model)))


def serving(session: Session, model: str) -> Serving | None:
    """Read a model's serving pointer: one indexed row."""
    pointer, row = rows.Serving, rows.Version
    found = session.execute(
        select(row, pointer.epoch).join(pointer, pointer.version_id == row.id).where(pointer.model == model)
    ).one_or_none()
    return found and Serving(version=copied(Version, found[0]), epoch=found[1])


def promote(
    session: Session,
    model: str,
    version_id: int,
    *,
    seen_epoch: int,
    who: str,
    reason: str,
    kind: PromotionKind = "promote",
    is_forced: bool = False,
    gate_id: int | None = None,
) -> int:
    """Move the serving pointer if it still stands at `seen_epoch` (0: at nothing yet); gives the new epoch.

    Raises ServingChanged, and UnknownVersion if the model has no such version.
    """
    row = rows.Version
    if session.scalar(select(row.id).where(row.id == version_id, row.model == model)) is None:
        raise errors.UnknownVersion(f"Model {model!r} has no version with id {version_id}.")
    _swap(session, model, version_id, seen_epoch)
    previous = select(rows.Promotion.version_id).where(
        rows.Promotion.model == model, rows.Promotion.epoch == seen_epoch
    )
    session.add(
        rows.Promotion(
            model=model,
            version_id=version_id,
            previous_version_id=session.scalar(previous),
            epoch=seen_epoch + 1,
            kind=kind,
            who=who,
            reason=reason,
            is_forced=is_forced,
            gate_id=gate_id,
        )
    )
    session.flush()
    return seen_epoch + 1


def rollback(session: Session, model: str, *, who: str, reason: str) -> Serving:
    """Go back to the version that served before this one; a second rollback goes further back.

    Raises UnknownModel, NothingToRollBack and ServingChanged.
    """
    now, before = _now(session, model), earlier(session, model)
    epoch = promote(session, model, before.id, seen_epoch=now.epoch, who=who, reason=reason, kind="rollback")
    return Serving(version=before, epoch=epoch)


def earlier(session: Session, model: str) -> Version:
    """Read the version that a rollback goes back to. Raises UnknownModel and NothingToRollBack."""
    now = _now(session, model)
    stack = _served(history(session, model))[:-1]
    if not stack:
        raise errors.NothingToRollBack(f"No version of {model!r} served before {now.version.name}.")
    return by_id(session, stack[-1])


def history(session: Session, model: str) -> list[Promotion]:
    """List a model's promotions, oldest first."""
    row, before = rows.Promotion, aliased(rows.Version)
    chosen = (
        select(row, version_name(), version_name(before))
        .join(rows.Version, rows.Version.id == row.version_id)
        .outerjoin(before, before.id == row.previous_version_id)
        .where(row.model == model)
        .order_by(row.epoch)
    )
    return [
        copied(Promotion, moved, version=version, previous=previous)
        for moved, version, previous in session.execute(chosen)
    ]


def live_at(session: Session, model: str, at_s: float) -> Version | None:
    """Read the version that served a model at a time, in epoch seconds; None before its first promotion."""
    moved = select(rows.Promotion.version_id).where(rows.Promotion.model == model, rows.Promotion.at_s <= at_s)
    version_id = session.scalar(moved.order_by(rows.Promotion.epoch.desc()).limit(1))
    return None if version_id is None else by_id(session, version_id)


def open_versions(session: Session, model: str) -> set[int]:
    """Give the ids of the versions that unfinished jobs are pinned to."""
    job = rows.Job
    pinned = select(job.version_id).where(job.model == model, job.version_id.is_not(None), job.finished_at_s.is_(None))
    return {version_id for version_id in session.scalars(pinned.distinct()) if version_id is not None}


def _now(session: Session, model: str) -> Serving:
    found = serving(session, model)
    if found is None:
        raise errors.UnknownModel(f"No version of a model {model!r} serves.")
    return found


def _swap(session: Session, model: str, version_id: int, seen_epoch: int) -> None:
    pointer = rows.Serving
    if seen_epoch == 0:
        first = database.insert(session, pointer).values(model=model, version_id=version_id, epoch=1)
        moved = session.scalar(first.on_conflict_do_nothing().returning(pointer.epoch))
    else:
        swapped = update(pointer).where(pointer.model == model, pointer.epoch == seen_epoch)
        moved = session.scalar(swapped.values(version_id=version_id, epoch=seen_epoch + 1).returning(pointer.epoch))
    if moved is None:
        raise errors.ServingChanged(f"Model {model!r} no longer serves what it did at epoch {seen_epoch}.")


def _served(promotions: list[Promotion]) -> list[int]:
    # A stack: a rollback takes the top off, so that two in a row go further back, not back and forth.
    stack: list[int] = []
    for promotion in promotions:
        if promotion.kind == "rollback":
            stack.pop()
        elif stack[-1:] != [promotion.version_id]:
            stack.append(promotion.version_id)
    return stack


def by_id(session: Session, version_id: int) -> Version:
    """Read the version that an outcome, a job or a claim points to."""
    return copied(Version, session.scalars(select(rows.Version).where(rows.Version.id == version_id)).one())
