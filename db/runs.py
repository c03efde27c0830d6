"""Runs: attempts to make a better version, one at a time for each model.

Takes wishes to learn, and what workers do about them. Gives each run to one worker at a time, by a lease and a fence
that rises with every claim, so that another goes on where one died; a final state, always.
Knows nothing of what the steps compute, or of messages.
"""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypedDict, Unpack

from sqlalchemy import ColumnElement, Select, and_, case, func, literal_column, or_, select, update
from sqlalchemy.orm import Session, aliased

from db import errors, models, pauses
from db import session as database
from db.models import ACTIVE, RunState, Verdict, Version, copied, version_name
from db.session import now_s

#: what makes a run wait for a bell and a worker again
_UNCLAIMED: Final = {"state": "queued", "lease_owner": None, "lease_until_s": None, "rung_at_s": None}
#: recorded for a run whose workers all died
KILLED = "killed_worker"

Row = models.Run
Step = models.Step


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A wish to learn."""

    model: str
    #: why, in one sentence
    reason: str
    asked_by: str
    seed: int
    #: the version whose backbone it starts from
    base_id: int | None
    #: the champion now
    parent_id: int | None
    #: everything that is configured: recipe, thresholds, gate policy
    playbook: dict[str, Any]
    #: to be trained although the plan advises against it
    is_forced: bool = False
    #: new_labels, new_class, drift, age...: for the gate
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(NewRun):
    """A run as the ledger holds it; times are epoch seconds."""

    id: int
    state: RunState
    verdict: Verdict | None
    #: `model:number`, as are `parent` and `version`
    base: str | None
    parent: str | None
    snapshot_id: int | None
    #: the step it is in, or was last
    step: str | None
    progress: dict[str, Any] | None
    #: evidence and decision
    plan: dict[str, Any] | None
    #: the challenger
    version_id: int | None
    version: str | None
    #: where the page about it lies
    report: str | None
    error_kind: str | None
    error_message: str | None
    lease_owner: str | None
    lease_until_s: float | None
    #: names this claim in every write
    fence: int
    #: times it was claimed, but for those that were given back
    attempts: int
    cancel_requested_at_s: float | None
    created_at_s: float
    started_at_s: float | None
    finished_at_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a worker learns when it renews its lease."""

    #: False: somebody else has the run, or it ended
    is_held: bool
    #: somebody asked for it to be cancelled
    is_cancelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One step of a run."""

    name: str
    started_at_s: float
    #: None while it is being done, or was when its worker died
    finished_at_s: float | None
    #: what later steps need of it
    result: dict[str, Any] | None


class Notes(TypedDict, total=False):
    """What a worker may write down about its run while it works."""

    base_id: int
    parent_id: int | None
    snapshot_id: int
    version_id: int
    progress: dict[str, Any]
    plan: dict[str, Any]
    report: str


def request(session: Session, new: NewRun) -> Run | None:
    """Put a run in the queue; None where the model has one that is queued or running."""
    columns = asdict(new) | {"causes": list(new.causes)}
    queued = database.insert(session, Row).values(**columns).on_conflict_do_nothing().returning(Row.id)
    run_id = session.scalar(queued)
    return None if run_id is None else run(session, run_id)


def claim(session: Session, run_id: int, *, owner: str, lease_s: float) -> Run | None:
    """Claim a run for `lease_s` seconds: one that waits, or whose lease ran out. None if held, paused or ended."""
    taken = (
        update(Row)
        .where(Row.id == run_id, or_(Row.state == "queued", _is_expired()), ~pauses.is_learning_paused(Row.model))
        .values(
            state="running",
            fence=Row.fence + 1,
            attempts=Row.attempts + 1,
            lease_owner=owner,
            lease_until_s=now_s() + lease_s,
            started_at_s=func.coalesce(Row.started_at_s, now_s()),
        )
    )
    taken_id = session.scalar(taken.returning(Row.id))
    return None if taken_id is None else run(session, run_id)


def extend(session: Session, run_id: int, fence: int, *, lease_s: float) -> Held:
    """Renew a lease, and tell whether the run is to go on."""
    renewed = update(Row).where(_is_held(run_id, fence)).values(lease_until_s=now_s() + lease_s)
    found = session.execute(renewed.returning(Row.cancel_requested_at_s)).one_or_none()
    return Held(is_held=found is not None, is_cancelled=found is not None and found[0] is not None)


def begin_step(session: Session, run_id: int, fence: int, name: str) -> None:
    """Note that a step begins, or begins again; one that is finished stays so. Raises RunLost."""
    _write(session, run_id, fence, {"step": name})
    begun = database.insert(session, Step).values(run_id=run_id, name=name)
    again = begun.on_conflict_do_update(
        index_elements=[Step.run_id, Step.name], set_={"started_at_s": now_s()}, where=Step.finished_at_s.is_(None)
    )
    session.execute(again)


def finish_step(session: Session, run_id: int, fence: int, name: str, result: dict[str, Any]) -> None:
    """Note that a step is done, with what later ones need of it. Raises RunLost."""
    _lock(session, run_id, fence)
    done = update(Step).where(Step.run_id == run_id, Step.name == name)
    session.execute(done.values(finished_at_s=now_s(), result=result))


def steps(session: Session, run_id: int) -> dict[str, StepRow]:
    """Read a run's steps by name, in the order in which they began."""
    chosen = select(Step).where(Step.run_id == run_id).order_by(Step.started_at_s, Step.name)
    return {found.name: copied(StepRow, found) for found in session.scalars(chosen)}


def note(session: Session, run_id: int, fence: int, **columns: Unpack[Notes]) -> None:
    """Write down what is known of a run by now. Raises RunLost."""
    _write(session, run_id, fence, dict(columns))


def end(
    session: Session,
    run_id: int,
    fence: int,
    *,
    state: Literal["succeeded", "failed", "cancelled"],
    verdict: Verdict | None = None,
    error_kind: str | None = None,
    error_message: str | None = None,
) -> None:
    """End a run. Raises RunLost."""
    ended = _ended(state, error_kind=error_kind, error_message=error_message)
    _write(session, run_id, fence, ended | {"verdict": verdict})


def release(session: Session, run_id: int, fence: int) -> None:
    """Give a run back for another worker, without counting the attempt; one that was lost is left alone."""
    returned = update(Row).where(_is_held(run_id, fence)).values(attempts=Row.attempts - 1, **_UNCLAIMED)
    session.execute(returned)


def cancel(session: Session, run_id: int) -> RunState:
    """Cancel a run: at once if nobody works on it, else ask whoever does; gives its state after that.

    Raises UnknownRun and RunFinished.
    """
    state = session.scalar(select(Row.state).where(Row.id == run_id).with_for_update())
    if state is None:
        raise errors.UnknownRun(f"There is no run {run_id}.")
    if state not in ACTIVE:
        raise errors.RunFinished(f"Run {run_id} is {state} already.")
    asked = update(Row).where(Row.id == run_id).values(cancel_requested_at_s=now_s())
    session.execute(asked)
    idle = update(Row).where(Row.id == run_id, or_(Row.state == "queued", _is_expired()))
    session.execute(idle.values(_ended("cancelled")))
    return session.scalars(select(Row.state).where(Row.id == run_id)).one()


def due(session: Session, *, older_than_s: float) -> list[int]:
    """List the runs that wait for a worker and were not rung for within `older_than_s` seconds, oldest first."""
    untold = or_(Row.rung_at_s.is_(None), Row.rung_at_s < now_s() - older_than_s)
    waiting = or_(Row.state == "queued", _is_expired())
    goes_on = ~pauses.is_learning_paused(Row.model)
    return list(session.scalars(select(Row.id).where(_is_active(), waiting, untold, goes_on).order_by(Row.id)))


def mark_rung(session: Session, run_ids: Iterable[int]) -> None:
    """Note that messages for these runs were sent just now."""
    session.execute(update(Row).where(Row.id.in_(list(run_ids)), _is_active()).values(rung_at_s=now_s()))


def give_up(session: Session, max_attempts: int) -> list[int]:
    """End the runs whose worker died: those to be cancelled, and those that killed `max_attempts`; gives their ids."""
    wanted = Row.cancel_requested_at_s.is_not(None)
    message = f"{max_attempts} workers died in step "
    ended = (
        update(Row)
        .where(_is_active(), _is_expired(), or_(wanted, Row.attempts >= max_attempts))
        .values(
            state=case((wanted, "cancelled"), else_="failed"),
            error_kind=case((wanted, None), else_=KILLED),
            error_message=case((wanted, None), else_=message + func.coalesce(Row.step, "none")),
            lease_owner=None,
            lease_until_s=None,
            finished_at_s=now_s(),
        )
    )
    return sorted(session.scalars(ended.returning(Row.id)))


def run(session: Session, run_id: int) -> Run:
    """Read one run; raises UnknownRun."""
    found = session.execute(_runs().where(Row.id == run_id)).one_or_none()
    if found is None:
        raise errors.UnknownRun(f"There is no run {run_id}.")
    return _run(*found)


def runs(
    session: Session,
    limit: int,
    model: str | None = None,
    state: RunState | None = None,
    *,
    before: int | None = None,
) -> list[Run]:
    """List up to `limit` runs, newest first; those with a number below `before`, if that is given."""
    chosen = _runs().order_by(Row.id.desc()).limit(limit)
    if before is not None:
        chosen = chosen.where(Row.id < before)
    if model is not None:
        chosen = chosen.where(Row.model == model)
    if state is not None:
        chosen = chosen.where(Row.state == state)
    return [_run(*found) for found in session.execute(chosen)]


def by_version(session: Session, version_id: int) -> Run | None:
    """Read the run that made a version, if one did."""
    found = session.execute(_runs().where(Row.version_id == version_id).limit(1)).one_or_none()
    return found and _run(*found)


def active(session: Session, model: str) -> Run | None:
    """Read the run of a model that has not ended: there is one at most."""
    found = session.execute(_runs().where(Row.model == model, _is_active())).one_or_none()
    return found and _run(*found)


def ended(session: Session, run_ids: Collection[int]) -> list[int]:
    """Give those of these runs that have ended."""
    chosen = select(Row.id).where(Row.id.in_(run_ids), Row.finished_at_s.is_not(None))
    return list(session.scalars(chosen.order_by(Row.id)))


def last_ended(session: Session, model: str) -> Run | None:
    """Read the run of a model that ended last."""
    ended = _runs().where(Row.model == model, Row.finished_at_s.is_not(None))
    found = session.execute(ended.order_by(Row.finished_at_s.desc(), Row.id.desc()).limit(1)).one_or_none()
    return found and _run(*found)


def last_label_seen(session: Session, model: str) -> int:
    """Give the newest label that a run of the model learnt from and succeeded, 0 before the first.

    A run that failed or was cancelled has not used its labels up.
    """
    snapshot = models.Snapshot
    seen = select(func.coalesce(func.max(snapshot.last_label_id), 0)).join(Row, Row.snapshot_id == snapshot.id)
    return session.execute(seen.where(Row.model == model, Row.state == "succeeded")).scalar_one()


def _is_active() -> ColumnElement[bool]:
    # Spelled as the partial index is, for parameters would not match it.
    return Row.state.in_([literal_column("'queued'"), literal_column("'running'")])


def _is_expired() -> ColumnElement[bool]:
    return and_(Row.state == "running", Row.lease_until_s <= now_s())


def _is_held(run_id: int, fence: int) -> ColumnElement[bool]:
    return and_(Row.id == run_id, Row.fence == fence, Row.state == "running")


def _lock(session: Session, run_id: int, fence: int) -> None:
    if session.scalar(select(Row.id).where(_is_held(run_id, fence)).with_for_update()) is None:
        raise errors.RunLost


def _write(session: Session, run_id: int, fence: int, columns: dict[str, object]) -> None:
    _lock(session, run_id, fence)
    if columns:
        session.execute(update(Row).where(Row.id == run_id).values(columns))


def _ended(state: RunState, *, error_kind: str | None = None, error_message: str | None = None) -> dict[str, object]:
    return {
        "state": state,
        "error_kind": error_kind,
        "error_message": error_message,
        "lease_owner": None,
        "lease_until_s": None,
        "finished_at_s": now_s(),
    }


def _runs() -> Select[models.Run, str, str, str]:
    base, parent, challenger = aliased(Version), aliased(Version), aliased(Version)
    return (
        select(Row, version_name(base), version_name(parent), version_name(challenger))
        .outerjoin(base, base.id == Row.base_id)
        .outerjoin(parent, parent.id == Row.parent_id)
        .outerjoin(challenger, challenger.id == Row.version_id)
    )


def _run(row: models.Run, base: str | None, parent: str | None, version: str | None) -> Run:
    return copied(Run, row, base=base, parent=parent, version=version, causes=tuple(row.causes))
