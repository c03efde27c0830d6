"""Takes a station and the shard a bell named. Gives claims: that shard, and others that wait for the same version.

Knows nothing of images. Everything here is one short transaction with the ledger.
"""

import time

from sqlalchemy.orm import Session

from db import bells, leases, registry, session, shards
from worker.sittings import Station

#: Seconds that interactive work of another version may wait before a sitting ends for it; idle workers take
#: milliseconds.
CALLED_AWAY_S = 0.25


def claim(station: Station, shard_id: int, give_up_s: float) -> tuple[list[leases.Claim], registry.Version | None]:
    """Claim the shard and find its version; with a small shard, claim others that wait, in the same transaction."""
    with session.transaction(station.sessions) as transaction:
        first = _first(station, transaction, shard_id)
        if first is None:
            return [], None
        version = _version(station, transaction, first)
        # Alone if it cost an attempt before: should it cost another, no neighbour pays for it.
        is_lone = first.attempts > 1 or len(first.items) >= station.batch_size or time.monotonic() >= give_up_s
        return [first, *([] if is_lone else claim_more(station, transaction, first, version))], version


def _first(station: Station, transaction: Session, shard_id: int) -> leases.Claim | None:
    """Claim the shard, or the next that its bell stands for, where somebody has it or it is done."""
    first = leases.claim(transaction, shard_id, owner=station.owner, lease_s=station.lease_s)
    if first is None and (waits := bells.next_like(transaction, shard_id)):
        return leases.claim(transaction, waits.shard_id, owner=station.owner, lease_s=station.lease_s)
    return first


def next_bell(station: Station, shard_id: int) -> list[bells.Bell]:
    """Give a bell for what waits next: the one that was heard stood for more than this sitting has done."""
    with session.reading(station.sessions) as reading:
        waits = bells.next_like(reading, shard_id)
        return [waits] if waits else []


def claim_more(
    station: Station, transaction: Session, first: leases.Claim, version: registry.Version
) -> list[leases.Claim]:
    """Claim others that wait for the same version, if any does."""
    if not shards.is_any_waiting(transaction, [first.model]):
        return []
    return _claim_waiting(station, transaction, version, _serves(transaction, version), max_items=station.claim_items)


def claim_urgent(station: Station, version: registry.Version) -> tuple[list[leases.Claim], bool]:
    """Claim small interactive shards of the version, a batch of them at most, if any waits.

    Tells, too, whether interactive work of another version has waited for so long that nobody idle can be there for it.
    """
    with session.reading(station.sessions) as reading:
        waiting = shards.urgent(reading, {version.model, *station.models})
        if not waiting:
            return [], False
        serves = _serves(reading, version)
    ours = {version.id, *([None] if serves else [])}
    others = [one for one in waiting if one.model != version.model or one.version_id not in ours]
    is_called_away = any(one.waited_s >= CALLED_AWAY_S for one in others)
    if len(others) == len(waiting):
        return [], is_called_away
    with session.transaction(station.sessions) as transaction:
        claims = _claim_waiting(station, transaction, version, serves, max_items=station.batch_size, urgent=True)
    return claims, is_called_away


def _claim_waiting(
    station: Station,
    transaction: Session,
    version: registry.Version,
    serves: bool,
    *,
    max_items: int,
    urgent: bool = False,
) -> list[leases.Claim]:
    return leases.claim_waiting(
        transaction,
        model=version.model,
        version_id=version.id,
        follows_latest=serves,
        max_items=max_items,
        owner=station.owner,
        lease_s=station.lease_s,
        untried=True,
        urgent=urgent,
    )


def _serves(reading: Session, version: registry.Version) -> bool:
    serving = registry.serving(reading, version.model)
    return serving is not None and serving.version.id == version.id


def _version(station: Station, transaction: Session, claim: leases.Claim) -> registry.Version:
    if claim.version_id is None:
        return registry.version(transaction, claim.model)
    if claim.version_id not in station.versions:
        station.versions[claim.version_id] = registry.by_id(transaction, claim.version_id)
    return station.versions[claim.version_id]


def extend_leases(station: Station) -> None:
    """Extend the leases of what is claimed, and stop holding what was lost: cancelled, expired or taken over."""
    held = list(station.held.items())
    if not held:
        return
    with session.transaction(station.sessions) as transaction:
        kept = leases.extend(transaction, held, lease_s=station.lease_s)
    for shard_id, fence in held:
        # By its fence: a shard given back meanwhile may be held anew.
        if shard_id not in kept and station.held.get(shard_id) == fence:
            station.held.pop(shard_id, None)
