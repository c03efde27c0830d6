"""Takes a level. Gives one line per event on stderr, from this code and Celery alike. Knows nothing of the events."""

import logging

from celery import signals

FORMAT = "%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s"


def set_up(level: str) -> None:
    """Log to stderr from `level` on; Celery's own word per task is left out, ours says more."""
    logging.basicConfig(level=level, format=FORMAT, force=True)
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


def take_over() -> None:
    """Set up logging in Celery's stead, in the pool's parent and in each child that imports a task module."""
    signals.setup_logging.connect(_set_up, dispatch_uid="imagemill")


def _set_up(loglevel: int | str | None = None, **_: object) -> None:
    set_up(logging.getLevelName(loglevel) if isinstance(loglevel, int) and loglevel else "INFO")
