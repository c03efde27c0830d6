"""Takes runs and the ticks that asked for them. Gives their pages: how far a run is, its curves, its verdict, and why.

Knows nothing of how a run learns.
"""

import logging
from functools import partial
from http import HTTPStatus
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Form, Path, Query
from starlette.responses import Response

from db import gates, registry, runs, session, snapshots, triggers
from pipeline import stores
from pipeline.errors import StoreUnreachable
from worker.client import Refused
from worker.learning_messages import MAX_RUN, STRATEGIES
from worker.web.callers import Owned
from worker.web.console import curves, rendering, routing
from worker.web.console.routing import By, Problem

log = logging.getLogger(__name__)

router = APIRouter(route_class=routing.Route)

#: runs of a page, ticks of a page
NUM_RUNS, NUM_TICKS = 50, 100
#: the steps of a run, in their order
STEPS = ("snapshot", "plan", "train", "evaluate", "gate", "report")
#: what a report may do: show its own styles and pictures
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; "
    "sandbox allow-popups allow-top-navigation-by-user-activation"
)

Number = Annotated[int, Path(ge=1, le=MAX_RUN)]
Before = Annotated[int | None, Query(ge=1)]


@router.get("/runs")
def listed(house: Owned, visitor: By, model: str = "", before: Before = None) -> Response:
    """List runs, newest first."""
    with session.reading(house.sessions) as reading:
        found = runs.runs(reading, NUM_RUNS + 1, model=model or None, before=before)
        names = registry.models(reading)
    return rendering.page(
        "runs.html",
        visitor,
        runs=found[:NUM_RUNS],
        older=found[NUM_RUNS - 1].id if len(found) > NUM_RUNS else None,
        before=before,
        model=model,
        names=list(dict.fromkeys((*house.settings.models, *names))),
        strategies=STRATEGIES,
        refused="",
    )


@router.post("/runs")
async def asked(
    house: Owned,
    visitor: By,
    model: Annotated[str, Form(max_length=200)],
    reason: Annotated[str, Form(max_length=500)] = "",
    strategy: Annotated[str, Form()] = "",
    base: Annotated[str, Form(max_length=200)] = "",
    force: Annotated[bool, Form()] = False,
) -> Response:
    """Ask for a run; a model has one at a time, so the one that is not over yet is shown instead."""
    routing.check_scope(visitor, "operate")
    ask = partial(
        house.client.retrain,
        model=model,
        reason=reason.strip() or f"{visitor.name} asked for it in the console",
        asked_by=visitor.name,
        strategy=strategy or None,
        base=base.strip() or None,
        force=force,
    )
    try:
        run = await to_thread.run_sync(ask, limiter=house.slow_threads)
    except Refused as refused:
        raise Problem(HTTPStatus.CONFLICT, str(refused)) from refused
    return routing.went("runs", run.id)


@router.get("/runs/{run}")
def shown(house: Owned, visitor: By, run: Number) -> Response:
    """Show a run: its steps, its curves, its verdict."""
    with session.reading(house.sessions) as reading:
        found = runs.run(reading, run)
        done = runs.steps(reading, run)
        gate = gates.by_run(reading, run)
        snapshot = None if found.snapshot_id is None else snapshots.by_id(reading, found.snapshot_id)
    trained = done["train"].result if "train" in done else None
    drawn = (
        curves.of_trials(trained["trials"]) if trained else curves.of_epochs((found.progress or {}).get("curve", ()))
    )
    return rendering.page(
        "run.html",
        visitor,
        run=found,
        steps=[(name, done.get(name)) for name in STEPS],
        gate=gate,
        snapshot=snapshot,
        curves=drawn,
        trained=trained,
        plan=(found.plan or {}).get("plan"),
    )


@router.post("/runs/{run}/cancel")
def cancelled(house: Owned, visitor: By, run: Number) -> Response:
    """Stop a run within seconds; the champion stays."""
    routing.check_scope(visitor, "operate")
    with session.transaction(house.sessions) as transaction:
        runs.cancel(transaction, run)
    return routing.went("runs", run)


@router.get("/runs/{run}/report")
def report(house: Owned, _: By, run: Number) -> Response:
    """Give the page that the run wrote about itself, as it lies in the store; nothing in it runs."""
    with session.reading(house.sessions) as reading:
        found = runs.run(reading, run)
    if found.report is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"Run {run} has no report yet: it is {found.state}.")
    folder, name = found.report.rsplit("/", 1)
    try:
        body = stores.read_file(folder, name)
    except StoreUnreachable as away:
        log.warning("%s", away)
        body = None
    if body is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"The report of run {run} cannot be read from the store.")
    headers = rendering.HEADERS | {"Content-Security-Policy": REPORT_POLICY}
    return Response(body, headers=headers, media_type="text/html; charset=utf-8")


@router.get("/triggers")
def ticks(house: Owned, visitor: By, model: str = "", before: Before = None) -> Response:
    """List what each tick of the scheduler decided, and why."""
    with session.reading(house.sessions) as reading:
        found = triggers.ticks(reading, model or None, NUM_TICKS + 1, before=before)
        names = registry.models(reading)
    return rendering.page(
        "triggers.html",
        visitor,
        ticks=found[:NUM_TICKS],
        older=found[NUM_TICKS - 1].id if len(found) > NUM_TICKS else None,
        before=before,
        model=model,
        names=names,
    )
