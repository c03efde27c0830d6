"""Loads: what each model's workers have before them, and how fast they are.

Takes rows of shards and workers. Gives sums. Knows nothing of what follows from them.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from db import pauses, workers
from db.models import Shard
from db.shards import is_claimed, is_waiting, job_works


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A model's unfinished work, and who is there for it."""

    model: str
    #: items that wait for a worker and may be claimed
    num_waiting: int
    #: items that workers have in hand
    num_held: int
    #: items that wait because their work is paused
    num_paused: int
    #: classify workers that take its work
    num_workers: int
    #: images/s of one worker in the mean; None where none has told its pace
    images_per_s: float | None


def loads(session: Session, alive: Iterable[workers.Alive]) -> list[Load]:
    """Sum up every model that has work or workers that are alive."""
    waiting = _items(session, is_waiting(), ~pauses.is_shard_paused())
    paused = _items(session, is_waiting(), pauses.is_shard_paused())
    held = _items(session, is_claimed())
    serving: dict[str, list[float | None]] = defaultdict(list)
    for worker in alive:
        for model in worker.models if worker.takes_work else ():
            serving[model].append((worker.images_per_s or {}).get(model))
    return [
        Load(
            model=model,
            num_waiting=waiting.get(model, 0),
            num_held=held.get(model, 0),
            num_paused=paused.get(model, 0),
            num_workers=len(serving[model]),
            images_per_s=_mean([pace for pace in serving[model] if pace]),
        )
        for model in sorted({*waiting, *paused, *held, *serving})
    ]


def _items(session: Session, *conditions: ColumnElement[bool]) -> dict[str, int]:
    summed = select(Shard.model, func.sum(Shard.num_items)).where(job_works(), *conditions)
    # PostgreSQL gives a sum as a decimal number.
    return {model: int(num) for model, num in session.execute(summed.group_by(Shard.model))}


def _mean(paces: list[float]) -> float | None:
    return sum(paces) / len(paces) if paces else None
