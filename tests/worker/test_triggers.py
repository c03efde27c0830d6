"""When a tick fires, and what it says when it does not: each condition as a row."""

from dataclasses import replace

import pytest

from worker.playbook import DAY_S, TriggerPolicy
from worker.triggers import Facts, decide

NOW_S = 1_790_000_000.0
#: nothing counts until a test says so
OFF = TriggerPolicy(
    min_new_labels=0, min_new_per_class=0, min_new_class_labels=0, max_age_s=0.0, drift=False, cooldown_s=0.0
)
FACTS = Facts(
    now_s=NOW_S,
    last_run_s=NOW_S - 2 * DAY_S,
    active_run=None,
    num_new=0,
    num_known=1000,
    new_per_class={},
    unknown_classes={},
    per_class={"cat": 500, "dog": 500},
    num_alarms=0,
    num_alarms_needed=2,
)


@pytest.mark.parametrize(
    ("policy", "facts", "fires", "why"),
    [
        ({"min_new_labels": 50}, {"num_new": 99}, False, "99 of 100 new labels"),
        ({"min_new_labels": 50}, {"num_new": 100}, True, "100 of 100 new labels"),
        ({"min_new_labels": 50}, {"num_new": 50, "num_known": 10}, True, "50 of 50 new labels"),
        ({"min_new_per_class": 20}, {"num_new": 25, "new_per_class": {"cat": 5, "dog": 20}}, True, "20 of 20 new"),
        ({"min_new_per_class": 20}, {"num_new": 38, "new_per_class": {"cat": 19, "dog": 19}}, False, "19 of 20"),
        ({"min_new_class_labels": 10}, {"num_new": 9, "unknown_classes": {"fox": 9}}, False, "no new class with 10"),
        ({"min_new_class_labels": 10}, {"num_new": 10, "unknown_classes": {"fox": 10}}, True, "fox (10 labels)"),
        ({"max_age_s": DAY_S}, {"num_new": 1}, True, "older than 1 days"),
        ({"max_age_s": DAY_S}, {"num_new": 0}, False, "older than 1 days"),
        ({"max_age_s": 3 * DAY_S}, {"num_new": 1}, False, "younger than 3 days"),
        ({"drift": True}, {"num_new": 1, "num_alarms": 1}, False, "1 of 2 drift alarms"),
        ({"drift": True}, {"num_new": 1, "num_alarms": 2}, True, "2 of 2 drift alarms"),
        ({"drift": True}, {"num_new": 0, "num_alarms": 2}, False, "labels suggest"),
        ({"cron": "0 3 * * *"}, {"num_new": 1}, True, "cron was due"),
        ({"cron": "0 3 * * *"}, {"num_new": 0}, False, "nothing new"),
        ({"cron": "0 3 1 1 *"}, {"num_new": 1}, False, "cron is due at"),
        ({}, {"num_new": 1000}, False, "no condition"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_a_condition_holds_or_says_what_is_missing(
    policy: dict[str, object], facts: dict[str, object], fires: bool, why: str
) -> None:
    decision = decide(replace(OFF, **policy), replace(FACTS, **facts))
    assert decision.is_fired is fires
    assert why in decision.reason


@pytest.mark.parametrize(
    ("policy", "facts", "why"),
    [
        ({"is_on": False}, {}, "off"),
        ({}, {"active_run": 7}, "run 7 is not over yet"),
        ({}, {"per_class": {"cat": 500, "dog": 1}}, "1 of at least 2 classes"),
        ({}, {"obstacle": "there is no base"}, "there is no base"),
        ({"cooldown_s": 3 * DAY_S}, {}, "of the last run"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_an_obstacle_goes_before_every_condition(policy: dict[str, object], facts: dict[str, object], why: str) -> None:
    ready = replace(OFF, min_new_labels=1)
    assert decide(ready, replace(FACTS, num_new=1000)).is_fired
    decision = decide(replace(ready, **policy), replace(FACTS, num_new=1000, **facts))
    assert not decision.is_fired
    assert why in decision.reason


def test_all_wants_every_condition_that_counts_and_any_one_of_them() -> None:
    both = replace(OFF, min_new_labels=50, max_age_s=5 * DAY_S)
    facts = replace(FACTS, num_new=500)
    assert decide(both, facts).is_fired
    assert not decide(replace(both, match="all"), facts).is_fired
    decision = decide(replace(both, match="all"), replace(facts, last_run_s=NOW_S - 9 * DAY_S))
    assert decision.causes == ("new_labels", "age")


def test_a_reason_does_not_change_while_nothing_does_so_that_equal_ticks_are_one_row() -> None:
    policy = replace(OFF, min_new_labels=50, max_age_s=30 * DAY_S, drift=True)
    reasons = {decide(policy, replace(FACTS, now_s=NOW_S + minute * 60)).reason for minute in range(60)}
    assert len(reasons) == 1
