"""Takes settings. Gives the schedule as data, on an app that holds no task, so that beat stays light.

Knows nothing of what the tasks do. Two beats are harmless: every tick is decided in SQL.
"""

from typing import Any

from celery import Celery

from worker import app, messages
from worker.settings import Settings

#: Seconds between two looks at what is old; a scheduler that is started anew every day asks, too.
PRUNE_S = 3600.0


def create_beat_app(settings: Settings) -> Celery:
    """Build the app for `beat`: one entry per chore, dropped if it could not be served before the next."""
    beat_app = app.create_app(settings)
    beat_app.conf.beat_schedule = {
        "sweep": _chore(messages.SWEEP, settings.sweep_s),
        "tick": _chore(messages.TICK, settings.tick_s),
        "prune": _chore(messages.PRUNE, PRUNE_S),
    }
    return beat_app


def _chore(task: str, every_s: float) -> dict[str, Any]:
    return {
        "task": task,
        "schedule": every_s,
        "options": {"queue": messages.UPKEEP_QUEUE, "expires": every_s, "ignore_result": True},
    }
