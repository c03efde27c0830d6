"""Takes a time in which the backlog is to be done. Gives the number of classify workers that takes.

Knows nothing of who starts them: it is advice, for a person, a cron job or an autoscaler.
"""

from argparse import Namespace

from db import loads, session, workers
from worker import messages, runtime, scaling, sizing
from worker.cli import output
from worker.scaling import Advice
from worker.settings import Settings


def scale(asked: Namespace, settings: Settings) -> int:
    """Print how many workers are advised; gives 1 if there are fewer. Raises `MessageInvalid`."""
    target = _target(asked)
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        alive = workers.list_alive(reading, within_s=sizing.ALIVE_S)
        found = loads.loads(reading, alive)
    num_workers = sum(one.role == "classify" and one.takes_work for one in alive)
    advice = scaling.advise(found, num_workers, target)
    if asked.json:
        output.as_json(advice)
    else:
        _print(advice)
    return 0 if advice.is_enough else 1


def _target(asked: Namespace) -> scaling.Target:
    if not asked.target_s > 0 or (asked.pace is not None and not asked.pace > 0) or asked.min > asked.max:
        raise messages.MessageInvalid("Give a target and a pace above 0, and no larger --min than --max.")
    return scaling.Target(drain_s=asked.target_s, fewest=asked.min, most=asked.max, pace=asked.pace)


def _print(advice: Advice) -> None:
    output.table(
        "Backlog",
        ("model", "items", "paused", "workers", "images/s each", "seconds"),
        (
            (
                one.model, one.num_items, one.num_paused, one.num_workers,
                f"{one.images_per_s:.1f}" if one.images_per_s else "not known",
                output.took(one.backlog_s) if one.backlog_s is not None else "not known",
            )
            for one in advice.models
        ),
    )  # fmt: skip
    does = "is enough" if advice.is_enough else "is too few"
    print(
        f"{advice.num_workers} of {advice.advised} advised classify workers: {does} to do {advice.work_s:,.0f} s of "
        f"one worker's work in {advice.target_s:,.0f} s."
    )
