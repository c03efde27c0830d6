"""Takes a tick of the scheduler. Gives, for each model, a run or the reason why there is none; both in the ledger.

Knows nothing of Celery or torch. Any number of schedulers may tick: the ledger lets one run start.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict

from sqlalchemy.orm import Session, sessionmaker

from db import counters, errors, labels, outcomes, pauses, registry, runs, session, triggers, windows
from pipeline.errors import PipelineError
from worker import measures, meter, pausing, playbook, retraining, ringing
from worker.playbook import Playbook
from worker.settings import Settings
from worker.triggers import Decision, Facts, decide

log = logging.getLogger(__name__)

#: Tells the learn queue that a run waits.
RingRun = Callable[[int], None]

#: deaths of a worker on one run before the run is given up
MAX_ATTEMPTS = 5
#: seconds after its bell from which a waiting run is rung for again; a bell too many finds nothing to claim
RING_AGAIN_S = 60.0


def tick(sessions: sessionmaker[Session], settings: Settings, ring: RingRun) -> None:
    """Decide for every model that is served here; one model's trouble does not keep the others from learning."""
    for model in settings.models:
        try:
            tick_model(sessions, settings, model, ring)
        except PipelineError as wrong:
            _write(sessions, model, Decision(is_fired=False, reason=str(wrong)), None, None)


def tick_model(sessions: sessionmaker[Session], settings: Settings, model: str, ring: RingRun) -> Decision | None:
    """Decide for one model and write down why; nothing is written of a model that has no labels."""
    known = playbook.read(settings.playbook, model)
    with session.reading(sessions) as reading:
        facts = facts_of(reading, known)
    if not facts.per_class:
        return None
    decision = decide(known.trigger, facts)
    run_id = None
    if decision.is_fired:
        wish = retraining.Wish(
            model=model, asked_by="trigger", reason=decision.reason, causes=decision.causes, base=known.base
        )
        requested = retraining.request(sessions, settings, wish)
        run_id = requested.run.id
        if not requested.is_new:
            decision = Decision(is_fired=False, reason=f"run {run_id} was started by somebody else just now")
    _write(sessions, model, decision, facts, run_id)
    if decision.is_fired and run_id is not None:
        log.info("%s is retrained as run %s: %s", model, run_id, decision.reason)
        ringing.ring_all(ring, [run_id])
    return decision


def sweep_runs(sessions: sessionmaker[Session], ring: RingRun) -> int:
    """Give up runs that killed their worker too often, and ring for those nobody works on; gives how many rang."""
    with session.transaction(sessions) as transaction:
        runs.give_up(transaction, MAX_ATTEMPTS)
        due = runs.due(transaction, older_than_s=RING_AGAIN_S)
        runs.mark_rung(transaction, due)
    return len(ringing.ring_all(ring, due))


def facts_of(reading: Session, known: Playbook) -> Facts:
    """Read what a decision rests on."""
    model = known.model
    last = runs.last_ended(reading, model)
    active = runs.active(reading, model)
    counts = {one.name: one.num for one in labels.counts(reading, model) if not one.is_removed}
    new = labels.new_since(reading, model, runs.last_label_seen(reading, model))
    serving = registry.serving(reading, model)
    return Facts(
        now_s=session.clock(reading),
        last_run_s=last.finished_at_s if last else None,
        active_run=active.id if active else None,
        num_new=new.num,
        num_known=sum(counts.values()) - new.num,
        new_per_class=new.per_class,
        unknown_classes={name: counts.get(name, 0) for name in new.new_classes},
        per_class=counts,
        num_alarms=_alarms_running(windows.recent(reading, model, limit=known.drift.num_alarms), serving),
        num_alarms_needed=known.drift.num_alarms,
        obstacle=retraining.obstacle(reading, model, known.base),
        paused=pausing.why(pauses.pauses(reading, model), "learning"),
    )


def _alarms_running(recent: Iterable[windows.Window], serving: registry.Serving | None) -> int:
    """Count the newest windows of what serves that all gave alarm."""
    num = 0
    for window in recent:
        if serving is None or window.version_id != serving.version.id or not window.is_alarm:
            break
        num += 1
    return num


def _write(
    sessions: sessionmaker[Session], model: str, decision: Decision, facts: Facts | None, run_id: int | None
) -> None:
    try:
        with session.transaction(sessions) as transaction:
            triggers.write(
                transaction,
                triggers.NewTick(
                    model=model,
                    is_fired=decision.is_fired,
                    reason=decision.reason,
                    facts=asdict(facts) if facts else {},
                    run_id=run_id,
                ),
            )
            decided = meter.key(measures.DECISIONS, model, "fired" if decision.is_fired else "skipped")
            counters.add(transaction, {decided: 1.0})
    except errors.LedgerError as away:
        log.warning("the tick of %s was not written: %s", model, away)


def models_to_watch(sessions: sessionmaker[Session], settings: Settings) -> list[str]:
    """Give the models whose serving version has said enough since its last window to be looked at for drift."""
    return [model for model in settings.models if _is_to_watch(sessions, settings, model)]


def _is_to_watch(sessions: sessionmaker[Session], settings: Settings, model: str) -> bool:
    try:
        known = playbook.read(settings.playbook, model)
    except PipelineError:
        return False
    with session.reading(sessions) as reading:
        serving = registry.serving(reading, model)
        if not known.trigger.drift or serving is None or serving.version.source != "run":
            return False
        before = windows.recent(reading, model, limit=1, version_id=serving.version.id)
        found = outcomes.recorded_since(
            reading, model, serving.version.id, before[0].until_s if before else 0.0, known.drift.num_items
        )
        return len(found) >= known.drift.num_items
