"""Takes versions that were promoted of late. Gives them back to the one before if their first work is worse.

Knows nothing of torch or Celery. What it sees and what it decides is in the ledger.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from sqlalchemy.orm import Session, sessionmaker

from db import bells, errors, jobs, live_checks, outcomes, registry, session, workers
from db.live_checks import LiveCheck
from db.outcomes import Recorded
from pipeline.errors import PipelineError
from worker import playbook, replays, ringing, sizing, troubles
from worker.intake import Ring
from worker.playbook import LivePolicy
from worker.settings import Settings

log = logging.getLogger(__name__)

#: Outcomes of a version that are looked at, at most.
MOST_LOOKED_AT = 2000
#: Stages of an item's failure that are the model's doing; fetching and decoding are not.
MODEL_STAGES = ("load", "forward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of a version's first work, beside that of the one before it."""

    num: int
    num_before: int
    #: shares of the outcomes that failed in the model
    error_rate: float
    error_rate_before: float
    #: shares of the labels that lie below each version's abstention threshold; None where a version has none
    abstention_rate: float | None
    abstention_rate_before: float | None
    #: replayed items that both versions labelled, with a class that both know
    num_compared: int
    #: share of those on which they disagree
    disagreement: float
    #: whether the replay has ended
    is_replayed: bool


def tend(sessions: sessionmaker[Session], settings: Settings, ring: Ring) -> None:
    """Look at every version under watch; one model's trouble does not keep the others from being looked at."""
    with session.reading(sessions) as reading:
        watched = live_checks.watching(reading)
    for check in watched:
        try:
            _tend(sessions, settings, ring, check)
        except (errors.LedgerError, PipelineError) as wrong:
            log.warning("the live check of %s waits: %s", check.model, wrong)


def verdict(policy: LivePolicy, seen: Seen, *, age_s: float) -> tuple[str | None, str]:
    """Give passed, rolled_back or None for not yet, and why."""
    if seen.num >= policy.min_items and seen.error_rate - seen.error_rate_before > policy.max_error_rise:
        return "rolled_back", f"{seen.error_rate:.1%} of its items fail, against {seen.error_rate_before:.1%} before"
    rise = _rise(seen.abstention_rate, seen.abstention_rate_before)
    if seen.num >= policy.min_items and rise is not None and rise > policy.max_abstention_rise:
        return "rolled_back", f"it abstains from {seen.abstention_rate:.1%}, against {seen.abstention_rate_before:.1%}"
    has_replay = seen.num_compared >= min(policy.min_items, policy.num_replayed)
    if has_replay and seen.disagreement > policy.max_disagreement:
        return "rolled_back", (
            f"it disagrees with the version before on {seen.disagreement:.1%} of {seen.num_compared} replayed items"
        )
    if age_s > policy.watch_s or (seen.num >= policy.min_items and seen.is_replayed):
        return "passed", f"{seen.num} items and {seen.num_compared} replayed ones gave no cause for alarm"
    return None, ""


def _tend(sessions: sessionmaker[Session], settings: Settings, ring: Ring, check: LiveCheck) -> None:
    policy = playbook.read(settings.playbook, check.model).live
    if check.replay_job_id is None:
        check = replace(check, replay_job_id=_replay(sessions, settings, ring, check, policy))
    with session.transaction(sessions) as transaction:
        serving = registry.serving(transaction, check.model)
        if serving is None or serving.epoch != check.promotion_epoch:
            live_checks.end(transaction, check.id, state="passed", numbers={}, reason="another version serves by now")
            return
        seen = look(transaction, check)
        state: str | None
        alive = workers.list_alive(transaction, within_s=sizing.ALIVE_S)
        barred = troubles.bars(alive, check.model, serving.version.name)
        if barred is not None and troubles.condemns(barred, serving.version.name):
            state, reason = "rolled_back", barred
        else:
            state, reason = verdict(policy, seen, age_s=session.clock(transaction) - check.began_at_s)
        if state is None:
            live_checks.note(transaction, check.id, numbers=asdict(seen))
        elif live_checks.end(
            transaction,
            check.id,
            state="passed" if state == "passed" else "rolled_back",
            numbers=asdict(seen),
            reason=reason,
        ):
            _conclude(transaction, check, state, reason)


def _conclude(transaction: Session, check: LiveCheck, state: str, reason: str) -> None:
    if state == "passed":
        log.info("%s passed its live check: %s", check.model, reason)
        return
    back = registry.rollback(transaction, check.model, who="live check", reason=reason)
    if check.replay_job_id:
        with suppress(errors.JobFinished):
            jobs.cancel(transaction, check.replay_job_id)  # nobody will look at it
    log.error("%s is rolled back to %s: %s", check.model, back.version.name, reason)


def look(reading: Session, check: LiveCheck) -> Seen:
    """Read what both versions did."""
    new, old = (registry.by_id(reading, version_id) for version_id in (check.version_id, check.previous_version_id))
    replay = check.replay_job_id
    now = [one for one in _latest(reading, new, check.began_at_s) if one.job_id != replay]
    before = _latest(reading, old, 0.0)
    compared, disagreeing = _compared(reading, check, new, old)
    is_replayed = replay is None or jobs.job(reading, replay).finished_at_s is not None
    return Seen(
        num=len(now),
        num_before=len(before),
        error_rate=_share(now, _is_model_error),
        error_rate_before=_share(before, _is_model_error),
        abstention_rate=_abstention_rate(now, new),
        abstention_rate_before=_abstention_rate(before, old),
        num_compared=compared,
        disagreement=disagreeing / compared if compared else 0.0,
        is_replayed=is_replayed,
    )


def _replay(
    sessions: sessionmaker[Session], settings: Settings, ring: Ring, check: LiveCheck, policy: LivePolicy
) -> uuid.UUID | None:
    """Have the new version classify what the old one labelled last; gives the job's id, if there was anything."""
    job_id = uuid.uuid5(replays.REPLAYS, str(check.id))
    with session.transaction(sessions) as transaction:
        new, old = (registry.by_id(transaction, id_) for id_ in (check.version_id, check.previous_version_id))
        said = [
            replays.Said(number=number, reference=one.reference, label=one.label or "")
            for number, one in enumerate(_labelled(_latest(transaction, old, 0.0))[: policy.num_replayed])
        ]
        if not said:
            return None
        shard_size = sizing.shard_size(transaction, settings.shard_size, new.model, len(said))
        replays.open_job(transaction, job_id, new, said, len(said), shard_size=shard_size, caller="live check")
        live_checks.note(transaction, check.id, replay_job_id=job_id)
        waiting = bells.take(transaction, job_id, limit=len(said))
    ringing.ring_all(ring, waiting)
    return job_id


def _latest(reading: Session, version: registry.Version, after_s: float) -> list[Recorded]:
    return outcomes.recorded_since(reading, version.model, version.id, after_s, MOST_LOOKED_AT, is_newest_first=True)


def _compared(reading: Session, check: LiveCheck, new: registry.Version, old: registry.Version) -> tuple[int, int]:
    """Count replayed items that both labelled with a class both know, and those labelled otherwise."""
    if check.replay_job_id is None:
        return 0, 0
    pairs = [(one.now, one.before) for one in replays.answers(reading, check.replay_job_id) if one.now is not None]
    # A class the old version did not know is no disagreement: it is what the new one was made for.
    known = {before for _, before in pairs} if new.num_classes > old.num_classes else {now for now, _ in pairs}
    comparable = [(now, before) for now, before in pairs if now in known]
    return len(comparable), sum(now != before for now, before in comparable)


def _labelled(found: Sequence[Recorded]) -> list[Recorded]:
    return [one for one in found if one.label is not None]


def _is_model_error(one: Recorded) -> bool:
    return one.error is not None and one.error.stage in MODEL_STAGES


def _share(found: Sequence[Recorded], fact: Callable[[Recorded], bool]) -> float:
    return sum(map(fact, found)) / len(found) if found else 0.0


def _abstention_rate(found: Sequence[Recorded], version: registry.Version) -> float | None:
    threshold: float | None = version.metrics.get("abstain_below")
    scores = [one.score for one in found if one.score is not None]
    if threshold is None or not scores:
        return None
    return sum(score < threshold for score in scores) / len(scores)


def _rise(now: float | None, before: float | None) -> float | None:
    return now - before if now is not None and before is not None else None
