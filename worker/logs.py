"""Takes a level, a format and a role. Gives one line per event on stderr, from this code and Celery alike.

Knows nothing of the events.
"""

import logging
from functools import partial

from celery import signals

from worker import lines
from worker.settings import read_settings


def set_up(level: str, *, form: str = "text", role: str = "") -> None:
    """Log to stderr from `level` on; Celery's own word per task is left out, ours says more."""
    handler = logging.StreamHandler()
    handler.setFormatter(lines.Json(role) if form == "json" else lines.Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(form == "json")  # else they would be lines of their own kind
    for chatty in (
        "celery.worker.strategy",
        "celery.app.trace",
        "celery.beat",
        "celery.redirected",
        "alembic",
        "fsspec",
        "botocore",
        "urllib3",
    ):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def take_over(role: str) -> None:
    """Set up logging in Celery's stead, in the pool's parent and in each child that imports a task module."""
    signals.setup_logging.connect(partial(_set_up, role), weak=False, dispatch_uid="imagemill")


def _set_up(role: str, loglevel: int | str | None = None, **_: object) -> None:
    level = logging.getLevelName(loglevel) if isinstance(loglevel, int) and loglevel else "INFO"
    set_up(level, form=read_settings().log_format, role=role)
