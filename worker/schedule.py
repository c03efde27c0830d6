"""Takes settings. Gives the schedule as data, on an app that holds no task, so that beat stays light.

Knows nothing of what the tasks do. Two beats are harmless: every tick is decided in SQL.
"""

from celery import Celery

from worker import app, messages
from worker.settings import Settings


def create_beat_app(settings: Settings) -> Celery:
    """Build the app for `beat`: one entry per chore, dropped if it could not be served before the next."""
    beat_app = app.create_app(settings)
    beat_app.conf.beat_schedule = {
        "sweep": {
            "task": messages.SWEEP,
            "schedule": settings.sweep_s,
            "options": {"queue": messages.UPKEEP_QUEUE, "expires": settings.sweep_s, "ignore_result": True},
        }
    }
    return beat_app
