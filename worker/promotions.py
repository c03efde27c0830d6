"""Takes a version's name, or a model's. Gives the serving pointer moved, to a version that has proved whole.

Knows nothing of torch: what proves a checkpoint is handed to it. Workers see a promotion in the ledger.
"""

from collections.abc import Callable

from sqlalchemy.orm import Session, sessionmaker

from db import errors, gates, registry, session
from db.registry import Serving, Version

#: Raises unless a version's checkpoint is whole.
Verify = Callable[[Version], None]


def promote(
    sessions: sessionmaker[Session], name: str, *, who: str, reason: str, verify: Verify, is_forced: bool = False
) -> Serving:
    """Let a version serve, once its checkpoint has proved whole: the pointer never moves to a broken one.

    A version that a run made must have passed the gate; `is_forced` overrides it, and is recorded with the reason.
    Raises `UnknownVersion`, `GateRefuses`, `ServingChanged`, and what `verify` does.
    """
    with session.reading(sessions) as reading:
        version = registry.version(reading, name)
        serving = registry.serving(reading, version.model)
        verdict = gates.on_version(reading, version.id)
    serves = serving is not None and serving.version.id == version.id
    if not serves:
        _refuse_unless_passed(version, verdict, reason, is_forced=is_forced)
    verify(version)
    if serving is not None and serves:
        return serving
    with session.transaction(sessions) as transaction:
        epoch = registry.promote(
            transaction,
            version.model,
            version.id,
            seen_epoch=serving.epoch if serving else 0,
            who=who,
            reason=reason,
            is_forced=is_forced,
            gate_id=verdict.id if verdict else None,
        )
    return Serving(version=version, epoch=epoch)


def rollback(sessions: sessionmaker[Session], model: str, *, who: str, reason: str, verify: Verify) -> Serving:
    """Let the version serve that served before, once its checkpoint has proved whole.

    Raises `UnknownModel`, `NothingToRollBack`, `ServingChanged`, and what `verify` does.
    """
    with session.reading(sessions) as reading:
        earlier = registry.earlier(reading, model)
    verify(earlier)  # outside of the transaction: it takes seconds, and others want to write
    with session.transaction(sessions) as transaction:
        serving = registry.rollback(transaction, model, who=who, reason=reason)
        if serving.version.id != earlier.id:
            raise errors.ServingChanged(f"Somebody moved what serves as {model!r} in the meantime; look again.")
    return serving


def _refuse_unless_passed(version: Version, verdict: gates.Gate | None, reason: str, *, is_forced: bool) -> None:
    if is_forced and not reason.strip():
        raise errors.GateRefuses("To override the gate, say why with --reason; it is kept in the history.")
    if is_forced or version.source != "run" or (verdict is not None and verdict.verdict == "promote"):
        return
    found = f"{verdict.verdict}: {verdict.reason}" if verdict else "it never came before the gate"
    found = found.rstrip(".")
    raise errors.GateRefuses(
        f"The gate did not let {version.name} serve ({found}); --force with --reason overrides it, on record."
    )
