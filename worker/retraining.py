"""Takes the wish to retrain a model: a person's, a service's or a trigger's. Gives its run in the ledger.

Knows nothing of torch, Celery or how a run goes: whoever asks rings for it after the commit.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session, sessionmaker

from db import errors, registry, runs, session
from worker import playbook
from worker.errors import NothingToStartFrom
from worker.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody asks for."""

    model: str
    asked_by: str
    reason: str
    #: head, last_stage or all; None leaves it to the playbook
    strategy: str | None = None
    #: the version whose weights it starts from; None leaves it to the playbook
    base: str | None = None
    #: train although the plan says that it is not worth it
    is_forced: bool = False
    seed: int = 0
    #: what led to it, for the gate: new_labels, new_class, drift, age, cron
    causes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """The run that will grant a wish, or the one that was there already."""

    run: runs.Run
    is_new: bool


def request(sessions: sessionmaker[Session], settings: Settings, wish: Wish) -> Requested:
    """Put a run into the ledger, or give the one that is queued or running: there is one per model at a time.

    Raises `PlaybookInvalid`, `RecipeInvalid`, `UnknownVersion` and `NothingToStartFrom`.
    """
    known = playbook.read(settings.playbook, wish.model)
    if wish.strategy is not None:
        known = replace(known, recipe=replace(known.recipe, strategy=wish.strategy))
    with session.transaction(sessions) as transaction:
        base = base_of(transaction, wish.model, wish.base or known.base)
        serving = registry.serving(transaction, wish.model)
        made = runs.request(
            transaction,
            runs.NewRun(
                model=wish.model,
                reason=wish.reason,
                asked_by=wish.asked_by,
                seed=wish.seed,
                base_id=base.id,
                parent_id=serving.version.id if serving else None,
                playbook=known.as_dict(),
                is_forced=wish.is_forced,
                causes=tuple(wish.causes),
            ),
        )
        found = made or runs.active(transaction, wish.model)
    if found is None:  # it ended between the two looks
        return request(sessions, settings, wish)
    return Requested(run=found, is_new=made is not None)


def base_of(reading: Session, model: str, named: str | None) -> registry.Version:
    """Find the version a run starts from: the one that is named, else the first ancestor of what serves.

    Raises `UnknownVersion` and `NothingToStartFrom`.
    """
    if named is not None:
        return registry.version(reading, named)
    serving = registry.serving(reading, model)
    if serving is None:
        raise NothingToStartFrom(
            f"No version of {model!r} serves, so there are no weights to start from: import some "
            "(`imagemill models import --model imagenet --arch ... --weights ...`) and name them with --base "
            "imagenet:1, or as `base` in the playbook."
        )
    version = serving.version
    while version.parent_id is not None:
        version = registry.by_id(reading, version.parent_id)
    return version


def obstacle(reading: Session, model: str, named: str | None) -> str:
    """Say what stands in the way of any run of this model, if anything."""
    try:
        base_of(reading, model, named)
    except (NothingToStartFrom, errors.LedgerError) as missing:
        return str(missing)
    return ""
