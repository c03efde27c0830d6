"""Takes the wish to retrain a model. Gives runs: asked for, listed, shown and cancelled."""

from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Query
from starlette.concurrency import run_in_threadpool

from db import gates, runs, session
from worker.learning_messages import MAX_RUN
from worker.learning_messages import RunStatus as Status
from worker.web import problems, shapes
from worker.web.callers import Operator, Owned, Reader
from worker.web.house import House

router = APIRouter(prefix="/v1/runs", tags=["runs"])

#: Runs in one page.
MAX_RUNS = 100

Number = Annotated[int, Path(ge=1, le=MAX_RUN)]


@router.get("", operation_id="list_runs", responses=problems.of(422))
def listed(
    house: Owned,
    _: Reader,
    model: Annotated[shapes.Name | None, Query(description="Only this model's")] = None,
    status: shapes.RunStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_RUNS)] = 20,
) -> shapes.Page[shapes.Run]:
    """List runs, newest first."""
    with session.reading(house.sessions) as reading:
        found = runs.runs(reading, limit + 1, model=model, state=status)
    return shapes.Page(data=[shapes.Run.of(one) for one in found[:limit]], has_more=len(found) > limit)


#: What can be asked of a run.
_LINKS = {
    name: {"operationId": name, "parameters": {"run": "$response.body#/id"}} for name in ("show_run", "cancel_run")
}


@router.post(
    "", operation_id="ask_for_run", status_code=202, responses={202: {"links": _LINKS}, **problems.of(404, 409, 422)}
)
async def asked(wish: shapes.NewRun, house: Owned, caller: Operator) -> shapes.Run:
    """Ask for a new version of a model. A model has one run at a time: one that is not over yet is given instead."""
    given = wish.model_dump(exclude_unset=True) | {"reason": wish.reason or f"{caller.name} asked for it over HTTP"}
    retrain = partial(house.client.retrain, **given, asked_by=caller.name)
    run: Status = await to_thread.run_sync(retrain, limiter=house.slow_threads)
    return await run_in_threadpool(_read, house, run.id)


@router.get("/{run}", operation_id="show_run", responses=problems.of(404, 422))
def shown(run: Number, house: Owned, _: Reader) -> shapes.Run:
    """Show a run with its steps, and what the gate said."""
    return _read(house, run)


@router.post("/{run}/cancel", operation_id="cancel_run", responses=problems.of(404, 409, 422))
def cancelled(run: Number, house: Owned, _: Operator) -> shapes.Run:
    """Stop a run within seconds; the champion stays."""
    with session.transaction(house.sessions) as transaction:
        runs.cancel(transaction, run)
    return _read(house, run)


def _read(house: House, number: int) -> shapes.Run:
    with session.reading(house.sessions) as reading:
        run = runs.run(reading, number)
        steps = [shapes.Step.of(one) for one in runs.steps(reading, number).values()]
        return shapes.Run.of(run, steps, gates.by_run(reading, number))
