"""Takes the ledger as it is. Gives the first page: what waits, who works, what ended lately.

Knows nothing of the broker: what waits is counted in items, by the ledger.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.responses import Response

from db import jobs, registry, session, workers
from db.jobs import Backlog
from worker import sizing
from worker.web.callers import Owned
from worker.web.console import rendering, routing
from worker.web.console.routing import By

router = APIRouter(route_class=routing.Route)

#: jobs that the page names
NUM_JOBS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What waits for one model."""

    model: str
    #: version that serves, `model:number`
    version: str | None
    #: by priority
    num_items: Mapping[str, int]
    #: seconds the oldest item has waited
    oldest_s: float | None
    #: of all workers that serve the model, where they have told it
    images_per_s: float

    @property
    def num_waiting(self) -> int:
        """Items in all."""
        return sum(self.num_items.values())

    @property
    def backlog_s(self) -> float | None:
        """Seconds until all of it is done at the pace of now; None where nobody has told a pace."""
        if not self.num_waiting:
            return 0.0
        return self.num_waiting / self.images_per_s if self.images_per_s else None


@router.get("")
def now(house: Owned, visitor: By) -> Response:
    """Show what waits, who works and what is new."""
    with session.reading(house.sessions) as reading:
        alive = workers.list_alive(reading, within_s=sizing.ALIVE_S)
        waiting = jobs.waiting_items(reading)
        names = dict.fromkeys((*house.settings.models, *registry.models(reading), *(one.model for one in waiting)))
        serving = {model: registry.serving(reading, model) for model in names}
        newest = jobs.jobs(reading, limit=NUM_JOBS)
        now_s = session.clock(reading)
    versions = {model: pointer.version.name if pointer else None for model, pointer in serving.items()}
    return rendering.page(
        "now.html",
        visitor,
        queues=_queues(versions, waiting, alive),
        alive=alive,
        newest=newest,
        flower=house.settings.flower_url,
        ledger_s=now_s,
    )


def _queues(
    versions: Mapping[str, str | None], waiting: Sequence[Backlog], alive: Sequence[workers.Alive]
) -> list[Queue]:
    """Sum up what waits by model; models that neither serve nor wait are left out."""
    by_model = defaultdict[str, list[Backlog]](list)
    for one in waiting:
        by_model[one.model].append(one)
    return [
        Queue(
            model=model,
            version=version,
            num_items=_by_priority(by_model[model]),
            oldest_s=max((one.oldest_s for one in by_model[model]), default=None),
            images_per_s=sum((worker.images_per_s or {}).get(model, 0.0) for worker in alive if worker.takes_work),
        )
        for model, version in versions.items()
        if version or by_model[model]
    ]


def _by_priority(waiting: Sequence[Backlog]) -> dict[str, int]:
    nums = {"interactive": 0, "bulk": 0}
    for one in waiting:
        nums[one.priority] += one.num_items
    return nums
