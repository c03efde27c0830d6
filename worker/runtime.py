"""Takes the settings. Gives what one worker child owns, built when the child starts and closed when it ends.

Knows nothing of messages. The parent of a pool never opens anything, so it never imports torch nor touches CUDA.
"""

import importlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from db import errors as db_errors
from db import migrate, session
from pipeline import errors as pipeline_errors
from worker import bell, heartbeat, intake
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.serving import Tally

log = logging.getLogger(__name__)

Owned = TypeVar("Owned")


@contextmanager
def ledger(settings: Settings) -> Iterator[sessionmaker[Session]]:
    """Connect to the ledger for as long as a command runs. Raises `LedgerError`."""
    sessions = session.connect(settings.database_url)
    try:
        migrate.check(sessions)
        yield sessions
    finally:
        session.engine_of(sessions).dispose()


def open_ledger(settings: Settings) -> sessionmaker[Session]:
    """Connect to the ledger and make sure its schema is this code's. Raises `LedgerError`."""
    sessions = session.connect(settings.database_url)
    migrate.check(sessions)
    return sessions


def open_or_end(role: str, build: Callable[[], Owned]) -> Owned | None:
    """Build what a child owns; if that fails, end the worker: a child without it would only fail its tasks."""
    opened = None
    try:
        opened = build()
    except (db_errors.LedgerError, pipeline_errors.PipelineError) as wrong:
        log.error("the %s worker cannot start: %s", role, wrong)
    finally:
        if opened is None:
            os.kill(os.getppid(), signal.SIGTERM)
    return opened


def start_heartbeat(role: str, sessions: sessionmaker[Session]) -> heartbeat.Heartbeat:
    """Show in the ledger that a child without other chores lives."""
    beating = heartbeat.Heartbeat(sessions, partial(heartbeat.row, role))
    beating.start()
    return beating


def open_desk(app: Celery, settings: Settings) -> intake.Desk:
    """Build what an intake child owns."""
    return intake.Desk(
        sessions=open_ledger(settings),
        ring=partial(bell.ring, app),
        inline_store=settings.inline_store,
        max_inline_bytes=settings.max_inline_bytes,
        shard_size=settings.shard_size,
    )


@dataclass(frozen=True, slots=True)
class Serving:
    """What a classify child owns."""

    sit: "Callable[[int], Tally]"
    close: Callable[[], None]


def open_serving(settings: Settings) -> Serving:
    """Build what a classify child owns, with every serving version loaded and warm.

    The station is imported by name, here, because the pool's parent imports the tasks and must not import torch.
    """
    station = importlib.import_module("worker.station")
    return Serving(*station.open_serving(settings, open_ledger(settings)))
