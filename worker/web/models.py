"""Takes a model's name. Gives its versions and what served when; moves what serves, if the gate lets it."""

from functools import partial

from anyio import to_thread
from fastapi import APIRouter
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from db import errors, registry, session
from worker import promotions
from worker.web import problems, proofs, shapes
from worker.web.callers import Operator, Owned, Reader
from worker.web.house import House

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", operation_id="list_models")
def listed(house: Owned, _: Reader) -> shapes.Page[shapes.Model]:
    """List the models, by name."""
    with session.reading(house.sessions) as reading:
        data = [_model(reading, name) for name in registry.models(reading)]
    return shapes.Page(data=data, has_more=False)


@router.get("/{model}", operation_id="show_model", responses=problems.of(404, 422))
def shown(model: shapes.Name, house: Owned, _: Reader) -> shapes.Model:
    """Show a model and what serves."""
    return _read(house, model)


@router.get("/{model}/versions", operation_id="list_versions", responses=problems.of(404, 422))
def versions(model: shapes.Name, house: Owned, _: Reader) -> shapes.Page[shapes.Version]:
    """List a model's versions, newest first."""
    with session.reading(house.sessions) as reading:
        known, serving = _known(reading, model), registry.serving(reading, model)
        serves = serving.version.id if serving else None
        data = [shapes.Version.of(one, serves=one.id == serves) for one in known]
    return shapes.Page(data=data, has_more=False)


@router.get("/{model}/history", operation_id="list_promotions", responses=problems.of(404, 422))
def history(model: shapes.Name, house: Owned, _: Reader) -> shapes.Page[shapes.Promotion]:
    """List what served when, who changed it and why, oldest first."""
    with session.reading(house.sessions) as reading:
        _known(reading, model)
        data = [shapes.Promotion.of(one) for one in registry.history(reading, model)]
    return shapes.Page(data=data, has_more=False)


@router.post("/{model}/promote", operation_id="promote_version", responses=problems.of(404, 409, 422))
async def promote(model: shapes.Name, wish: shapes.Promote, house: Owned, caller: Operator) -> shapes.Model:
    """Let a version serve, once its checkpoint has proved whole; warm workers swap to it within seconds.

    A version that a run made must have passed the gate; `force` with a reason overrides it, on record.
    """
    if wish.version.rpartition(":")[0] != model:
        raise errors.UnknownVersion(f"{wish.version} is not a version of model {model!r}.")
    move = partial(promotions.promote, house.sessions, wish.version, reason=wish.reason, is_forced=wish.force)
    return await _moved(house, model, partial(move, who=caller.name))


@router.post("/{model}/rollback", operation_id="roll_back", responses=problems.of(404, 409, 422))
async def rollback(model: shapes.Name, wish: shapes.Rollback, house: Owned, caller: Operator) -> shapes.Model:
    """Let the version serve that served before; a second rollback goes further back."""
    move = partial(promotions.rollback, house.sessions, model, reason=wish.reason)
    return await _moved(house, model, partial(move, who=caller.name))


async def _moved(house: House, model: str, move: "partial[registry.Serving]") -> shapes.Model:
    prove = partial(proofs.verify, house.settings)
    await to_thread.run_sync(partial(move, verify=prove), limiter=house.slow_threads)
    return await run_in_threadpool(_read, house, model)


def _read(house: House, name: str) -> shapes.Model:
    with session.reading(house.sessions) as reading:
        return _model(reading, name)


def _known(reading: Session, name: str) -> list[registry.Version]:
    """List a model's versions, newest first. Raises `UnknownModel` where there is none."""
    known = registry.versions(reading, name)
    if not known:
        raise errors.UnknownModel(f"There is no model {name!r}.")
    return known


def _model(reading: Session, name: str) -> shapes.Model:
    known, serving = _known(reading, name), registry.serving(reading, name)
    return shapes.Model(
        id=name,
        serving=serving.version.name if serving else None,
        epoch=serving.epoch if serving else 0,
        versions=len(known),
    )
