"""Takes the settings. Gives what one worker child owns, built when the child starts and closed when it ends.

Knows nothing of messages. The parent of a pool never opens anything, so it never imports torch nor touches CUDA.
"""

import importlib
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from db import errors as db_errors
from db import migrate, registry, session
from pipeline import errors as pipeline_errors
from worker import bell, callbacks, heartbeat, intake, learner, learning_desk, notices, quotas, receivers, tracing
from worker.meter import Meter
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.sittings import Tally

log = logging.getLogger(__name__)

Owned = TypeVar("Owned")


@contextmanager
def ledger(settings: Settings) -> Iterator[sessionmaker[Session]]:
    """Connect to the ledger for as long as a command runs. Raises `LedgerError`."""
    with session.connected(settings.database_url) as sessions:
        migrate.check(sessions)
        yield sessions


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


def start_heartbeat(
    role: str,
    sessions: sessionmaker[Session],
    *,
    chores: Sequence[Callable[[], None]] = (),
    meter: Meter | None = None,
) -> heartbeat.Heartbeat:
    """Show in the ledger that a child lives, do its chores and write down what it counts."""
    beating = heartbeat.Heartbeat(sessions, partial(heartbeat.row, role), chores=chores, meter=meter)
    beating.start()
    return beating


def start_sender(settings: Settings, sessions: sessionmaker[Session]) -> callbacks.Sender | None:
    """Tell others of jobs' ends from now on, if there is anybody who may be told."""
    allowed = receivers.roots(settings)
    if not allowed:
        return None
    sender = callbacks.Sender(sessions, allowed, receivers.secrets(settings))
    sender.start()
    return sender


def ringer(app: Celery, sessions: sessionmaker[Session]) -> intake.Ring:
    """Give what rings for shards; a version's name, which never changes, is looked up once."""
    known: dict[int, str] = {}

    def name_of(version_id: int) -> str | None:
        if version_id not in known:
            try:
                with session.reading(sessions) as reading:
                    known[version_id] = registry.by_id(reading, version_id).name
            except db_errors.LedgerError:
                return None
        return known[version_id]

    return partial(bell.ring, app, name_of=name_of)


def open_desk(app: Celery, settings: Settings, sessions: sessionmaker[Session], *, role: str = "intake") -> intake.Desk:
    """Build the desk for work, whoever stands at it."""
    return intake.Desk(
        tracer=tracing.open_tracer(settings, role),
        sessions=sessions,
        ring=ringer(app, sessions),
        inline_store=settings.inline_store,
        max_inline_bytes=settings.max_inline_bytes,
        shard_size=settings.shard_size,
        quotas=quotas.Quotas(max_waiting=settings.max_waiting_items, max_caller=settings.max_caller_items),
        callback_roots=receivers.roots(settings),
    )


def open_desks(app: Celery, settings: Settings) -> tuple[intake.Desk, learning_desk.LearningDesk]:
    """Build what an intake child owns: the desk for work, and the one for labels and runs.

    What reads images is imported by name, here, because the pool's parent imports the tasks and must not import Pillow.
    """
    labelling = importlib.import_module("worker.labelling")
    sessions = open_ledger(settings)
    return open_desk(app, settings, sessions), learning_desk.LearningDesk(
        sessions=sessions,
        settings=settings,
        record=partial(labelling.record, labelling.open_labeller(settings, sessions)),
        ring_run=partial(bell.ring_run, app),
    )


@dataclass(frozen=True, slots=True)
class Serving:
    """What a classify child owns."""

    sit: "Callable[[int], Tally]"
    close: Callable[[], None]
    #: Rings for what a sitting left.
    ring: intake.Ring


def open_serving(app: Celery, settings: Settings, is_stopping: Callable[[], bool]) -> Serving:
    """Build what a classify child owns, with every serving version loaded and warm.

    The station is imported by name, here, because the pool's parent imports the tasks and must not import torch.
    """
    station = importlib.import_module("worker.station")
    sessions = open_ledger(settings)
    sit, close = station.open_serving(settings, sessions, notices.Crier(app).tell, is_stopping)
    return Serving(sit=sit, close=close, ring=ringer(app, sessions))


def open_learner(settings: Settings, is_stopping: Callable[[], bool]) -> learner.Learner:
    """Build what a learn child owns; torch is imported with its first run."""
    return learner.Learner(settings, open_ledger(settings), is_stopping)
