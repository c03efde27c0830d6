"""Takes what each model has before it. Gives how many classify workers would be through with it in time.

Knows nothing of SQL, or of who starts workers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from db.loads import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is wanted."""

    #: Seconds in which what waits now is to be done.
    drain_s: float
    #: Workers at least and at most.
    fewest: int
    most: int
    #: Images/s of one worker, where none has told its own; None: not known.
    pace: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAdvice:
    """One model's part of it."""

    model: str
    num_items: int
    num_paused: int
    num_workers: int
    #: Images/s of one worker; None where nobody knows.
    images_per_s: float | None
    #: Seconds of work for one worker; None where its pace is not known.
    work_s: float | None
    #: Seconds that the workers there are would take; None without a worker, or where their pace is not known.
    backlog_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """How many workers, and what that rests on."""

    num_workers: int
    advised: int
    target_s: float
    #: Seconds of work for one worker, of all models whose pace is known.
    work_s: float
    models: tuple[ModelAdvice, ...]

    @property
    def is_enough(self) -> bool:
        """Whether as many work as are advised, or more."""
        return self.num_workers >= self.advised


def advise(loads: Sequence[Load], num_workers: int, target: Target) -> Advice:
    """Advise on the number of workers, each of which serves every model, as those of one deployment do.

    Work of a model whose pace nobody knows asks for one worker, or for no fewer than there are.
    """
    models = tuple(_of(load, target) for load in loads)
    work_s = sum(one.work_s or 0.0 for one in models)
    wanted = math.ceil(work_s / target.drain_s)
    if any(one.num_items and one.work_s is None for one in models):
        wanted = max(wanted, num_workers, 1)
    advised = min(max(wanted, target.fewest), target.most)
    return Advice(num_workers=num_workers, advised=advised, target_s=target.drain_s, work_s=work_s, models=models)


def _of(load: Load, target: Target) -> ModelAdvice:
    num_items, pace = load.num_waiting + load.num_held, load.images_per_s or target.pace
    work_s = num_items / pace if pace else (None if num_items else 0.0)
    return ModelAdvice(
        model=load.model,
        num_items=num_items,
        num_paused=load.num_paused,
        num_workers=load.num_workers,
        images_per_s=pace,
        work_s=work_s,
        backlog_s=work_s / load.num_workers if work_s is not None and load.num_workers else None,
    )
