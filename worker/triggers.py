"""Takes a model's trigger policy and the facts of this moment. Gives fired or skipped, and why, in one sentence.

Knows nothing of SQL, Celery or torch: a table of conditions, each a pure question.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from croniter import croniter

from worker.playbook import DAY_S, TriggerPolicy

#: a run needs this many classes ...
MIN_CLASSES = 2
#: ... each with this many labels
MIN_PER_CLASS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a tick knows of one model."""

    #: epoch seconds by the ledger's clock, as are all times here
    now_s: float
    #: when the last run ended, or began if it has not; None before the first one
    last_run_s: float | None
    #: the run that is queued or running
    active_run: int | None
    #: labels since the last run's snapshot
    num_new: int
    #: labels that snapshot held
    num_known: int
    new_per_class: Mapping[str, int]
    #: labels per class that the serving version does not know
    unknown_classes: Mapping[str, int]
    #: labels per class in all
    per_class: Mapping[str, int]
    #: drift alarms in a row, the newest windows of the serving version
    num_alarms: int
    #: alarms in a row that count
    num_alarms_needed: int
    #: what stands in the way of any run, if anything: no base, say
    obstacle: str = ""
    #: that an operator has paused learning, and why; empty if not
    paused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a tick decides."""

    is_fired: bool
    reason: str
    #: why it fired, for the gate: new_labels, new_class, drift, age, cron
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Condition:
    cause: str
    holds: bool
    #: what was found, whichever way it turned out
    found: str


def decide(policy: TriggerPolicy, facts: Facts) -> Decision:
    """Decide whether a run starts now."""
    obstacle = _obstacle(policy, facts)
    if obstacle:
        return Decision(is_fired=False, reason=obstacle)
    conditions = list(_conditions(policy, facts))
    held = [condition for condition in conditions if condition.holds]
    fires = bool(held) and (policy.match == "any" or len(held) == len(conditions))
    if fires:
        causes = tuple(condition.cause for condition in held)
        return Decision(is_fired=True, reason="; ".join(condition.found for condition in held), causes=causes)
    missing = [condition.found for condition in conditions if not condition.holds]
    return Decision(is_fired=False, reason="; ".join(missing) or "no condition of the trigger counts")


def _obstacle(policy: TriggerPolicy, facts: Facts) -> str:
    if not policy.is_on:
        return "the trigger is off"
    if facts.paused or facts.active_run is not None:
        return facts.paused or f"run {facts.active_run} is not over yet"
    ready = [name for name, num in facts.per_class.items() if num >= MIN_PER_CLASS]
    if len(ready) < MIN_CLASSES:
        return f"{len(ready)} of at least {MIN_CLASSES} classes have {MIN_PER_CLASS} labels"
    if facts.obstacle:
        return facts.obstacle
    if facts.last_run_s is not None and facts.now_s - facts.last_run_s < policy.cooldown_s:
        return f"within {policy.cooldown_s:.0f} s of the last run"
    return ""


def _conditions(policy: TriggerPolicy, facts: Facts) -> "list[_Condition]":
    candidates = (
        (bool(policy.cron), _cron),
        (policy.min_new_labels > 0, _new_labels),
        (policy.min_new_per_class > 0, _new_per_class),
        (policy.min_new_class_labels > 0, _new_class),
        (policy.max_age_s > 0, _age),
        (policy.drift, _drift),
    )
    return [ask(policy, facts) for counts, ask in candidates if counts]


def _cron(policy: TriggerPolicy, facts: Facts) -> _Condition:
    # Before the first run a cron is due at its next moment after the epoch: at once.
    last = datetime.datetime.fromtimestamp(facts.last_run_s or 0.0, datetime.UTC)
    due_s = croniter(policy.cron, last).get_next(float)
    when = datetime.datetime.fromtimestamp(due_s, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    if due_s > facts.now_s:
        return _Condition(cause="cron", holds=False, found=f"cron is due at {when}")
    nothing = "" if facts.num_new else ", and there is nothing new"
    return _Condition(cause="cron", holds=facts.num_new > 0, found=f"cron was due at {when}{nothing}")


def _new_labels(policy: TriggerPolicy, facts: Facts) -> _Condition:
    needed = max(policy.min_new_labels, round(policy.min_new_share * facts.num_known))
    return _Condition(
        cause="new_labels", holds=facts.num_new >= needed, found=f"{facts.num_new} of {needed} new labels"
    )


def _new_per_class(policy: TriggerPolicy, facts: Facts) -> _Condition:
    name, most = max(facts.new_per_class.items(), key=lambda pair: pair[1], default=("any class", 0))
    found = f"{most} of {policy.min_new_per_class} new labels of {name}"
    return _Condition(cause="new_labels", holds=most >= policy.min_new_per_class, found=found)


def _new_class(policy: TriggerPolicy, facts: Facts) -> _Condition:
    ready = {name: num for name, num in facts.unknown_classes.items() if num >= policy.min_new_class_labels}
    if ready:
        named = ", ".join(f"{name} ({num} labels)" for name, num in sorted(ready.items())[:5])
        return _Condition(cause="new_class", holds=True, found=f"new classes: {named}")
    return _Condition(cause="new_class", holds=False, found=f"no new class with {policy.min_new_class_labels} labels")


def _age(policy: TriggerPolicy, facts: Facts) -> _Condition:
    # Without the running age itself: a reason that changes at every tick would be a row for each.
    limit = f"{policy.max_age_s / DAY_S:g} days"
    is_old = facts.last_run_s is not None and facts.now_s - facts.last_run_s >= policy.max_age_s
    found = f"the last run is {'older' if is_old else 'younger'} than {limit}" if facts.last_run_s else "no run yet"
    return _Condition(cause="age", holds=is_old and facts.num_new > 0, found=found)


def _drift(_: TriggerPolicy, facts: Facts) -> _Condition:
    found = f"{facts.num_alarms} of {facts.num_alarms_needed} drift alarms running"
    is_alarmed = facts.num_alarms >= facts.num_alarms_needed
    if is_alarmed and not facts.num_new:
        # The same labels would give the same model again.
        found += ", and no new label: see `imagemill labels suggest`"
    return _Condition(cause="drift", holds=is_alarmed and facts.num_new > 0, found=found)
