"""Takes a model or a version. Gives its pages: what serves, where each version comes from, what the gate said; moves.

Knows nothing of weights. Whoever moves a serving pointer proves the checkpoint first, in a process of its own.
"""

from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Form, Path
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from db import errors, gates, live_checks, registry, runs, session, snapshots
from worker import promotions
from worker.messages import VERSION_NAME
from worker.web import proofs
from worker.web.callers import Caller, Owned
from worker.web.console import rendering, routing
from worker.web.console.routing import By, Problem
from worker.web.house import House
from worker.web.problems import RequestRefused

router = APIRouter(prefix="/models", route_class=routing.Route)

#: characters of a reason
MAX_REASON = 500
#: versions and promotions that a page lists, the newest
MOST_ROWS = 200

Reason = Annotated[str, Form(max_length=MAX_REASON)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A version, where it comes from, and what the gate said of it last."""

    version: registry.Version
    parent: str | None
    gate: gates.Gate | None


@router.get("")
def listed(house: Owned, visitor: By) -> Response:
    """List the models, with what serves as each."""
    with session.reading(house.sessions) as reading:
        names = registry.models(reading)
        serving = {name: registry.serving(reading, name) for name in names}
        active = {name: runs.active(reading, name) for name in names}
    return rendering.page("models.html", visitor, names=names, serving=serving, active=active)


@router.get("/{model}")
def shown(house: Owned, visitor: By, model: str) -> Response:
    """Show a model: what serves, its versions, its history."""
    return _page(house, visitor, model)


@router.get("/{model}/{number}")
def version(house: Owned, visitor: By, model: str, number: Annotated[int, Path(ge=1, le=10**8)]) -> Response:
    """Show a version: where it comes from, how it measured, what the gate said."""
    with session.reading(house.sessions) as reading:
        found = registry.version(reading, f"{model}:{number}")
        run = runs.by_version(reading, found.id)
        return rendering.page(
            "version.html",
            visitor,
            version=found,
            serving=registry.serving(reading, model),
            gate=gates.on_version(reading, found.id),
            run=run,
            snapshot=None if run is None or run.snapshot_id is None else snapshots.by_id(reading, run.snapshot_id),
            ancestors=_ancestors(reading, found),
        )


@router.post("/{model}/promote")
async def promote(
    house: Owned,
    visitor: By,
    model: str,
    version: Annotated[str, Form(max_length=200)],
    reason: Reason = "",
    force: Annotated[bool, Form()] = False,
) -> Response:
    """Let a version serve."""
    routing.check_scope(visitor, "operate")
    if version.rpartition(":")[0] != model or not VERSION_NAME.fullmatch(version):
        raise Problem(HTTPStatus.BAD_REQUEST, f"{version} is no version of {model}.")
    move = partial(promotions.promote, house.sessions, version, reason=_why(reason, visitor), is_forced=force)
    if force and not reason.strip():
        refused = "To override the gate, say why: the reason is kept in the history."
        return await run_in_threadpool(_page, house, visitor, model, refused)
    return await _moved(house, visitor, model, move)


@router.post("/{model}/rollback")
async def rollback(house: Owned, visitor: By, model: str, reason: Reason = "") -> Response:
    """Let the version serve that served before."""
    routing.check_scope(visitor, "operate")
    move = partial(promotions.rollback, house.sessions, model, reason=_why(reason, visitor))
    return await _moved(house, visitor, model, move)


async def _moved(house: House, visitor: Caller, model: str, move: "partial[registry.Serving]") -> Response:
    prove = partial(proofs.verify, house.settings)
    try:
        await to_thread.run_sync(partial(move, who=visitor.name, verify=prove), limiter=house.slow_threads)
    except (errors.GateRefuses, errors.ServingChanged, errors.NothingToRollBack, RequestRefused) as refused:
        sentence = str(refused).replace("--force with --reason overrides it", "an override with a reason is possible")
        return await run_in_threadpool(_page, house, visitor, model, sentence)
    return routing.went("models", model)


def _why(reason: str, visitor: Caller) -> str:
    return reason.strip() or f"{visitor.name} asked for it in the console"


def _page(house: House, visitor: Caller, model: str, refused: str = "") -> Response:
    with session.reading(house.sessions) as reading:
        known = registry.versions(reading, model)
        if not known:
            raise errors.UnknownModel(f"There is no model {model!r}.")
        history = registry.history(reading, model)
        names = {one.id: one.name for one in known}
        verdicts = gates.on_versions(reading, model)
        entries = [
            Entry(
                version=one,
                parent=None if one.parent_id is None else names.get(one.parent_id) or _name(reading, one.parent_id),
                gate=verdicts.get(one.id),
            )
            for one in known[:MOST_ROWS]
        ]
        return rendering.page(
            "model.html",
            visitor,
            status=HTTPStatus.CONFLICT if refused else HTTPStatus.OK,
            model=model,
            serving=registry.serving(reading, model),
            entries=entries,
            history=history[::-1][:MOST_ROWS],
            watch=live_checks.latest(reading, model),
            active=runs.active(reading, model),
            num_versions=len(known),
            refused=refused,
        )


def _name(reading: Session, version_id: int) -> str:
    return registry.by_id(reading, version_id).name


def _ancestors(reading: Session, version: registry.Version) -> list[registry.Version]:
    """Give the versions that this one goes back to, the nearest first."""
    found: list[registry.Version] = []
    while version.parent_id is not None and len(found) < MOST_ROWS:
        version = registry.by_id(reading, version.parent_id)
        found.append(version)
    return found
