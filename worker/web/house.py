"""Takes the settings. Gives what the HTTP process owns, from its start to its end.

Knows nothing of HTTP. Images are decoded by intake and the workers, never here.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from anyio import CapacityLimiter
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from db import bells, keys, session
from worker import bell as worker_bell
from worker import intake, label_studio, runtime
from worker.app import create_app
from worker.client import BROKER_ERRORS, Client
from worker.exposition import Exposition
from worker.settings import Settings
from worker.web.gathering import Gathering
from worker.web.limits import Places
from worker.web.watching import Watch

log = logging.getLogger(__name__)

#: The role under which this process shows in the ledger.
ROLE = "http"
#: Requests at once that take seconds: large manifests, uploads, labels.
SLOW_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What requests are answered with; on `app.state.house`."""

    settings: Settings
    sessions: sessionmaker[Session]
    #: Records jobs and answers for them.
    desk: intake.Desk
    #: Hands labels and the wish to retrain to intake, which reads images.
    client: Client
    #: What Prometheus is told.
    exposition: Exposition
    #: How Label Studio's tasks are read.
    project: label_studio.Project = label_studio.Project()
    #: Keys that were shown since the last beat, by their ids.
    used_keys: set[int] = field(default_factory=set)
    #: Where submissions of many requests meet.
    gathering: Gathering
    watch: Watch
    #: Bodies that are kept on disk while they come.
    uploads: Places = field(default_factory=lambda: Places(what="uploads", most=64, most_of_one=16))
    #: Requests that wait for a job, and streams of its events.
    waits: Places = field(default_factory=lambda: Places(what="waiting requests", most=1000, most_of_one=500))
    #: Threads for what takes seconds, so that it keeps none of the others waiting.
    slow_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(SLOW_THREADS))


@contextmanager
def opened(settings: Settings, project: label_studio.Project) -> Iterator[House]:
    """Connect to the ledger and the broker, and show in the ledger that this process lives. Raises `LedgerError`."""
    app = create_app(settings)
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.1, "interval_max": 0.1}
    sessions = runtime.open_ledger(settings)
    desk = runtime.open_desk(app, settings, sessions, role=ROLE)
    desk = replace(desk, ring=partial(_ring, desk.ring))
    with Client(settings.broker_url) as client:
        house = House(
            settings=settings,
            sessions=sessions,
            desk=desk,
            client=client,
            exposition=_exposition(app, settings, sessions),
            project=project,
            gathering=Gathering(desk),
            watch=Watch(sessions),
        )
        chores = (partial(desk.quotas.count.renew, sessions), partial(_note_used, house))
        beating = runtime.start_heartbeat(ROLE, sessions, chores=chores, meter=desk.meter)
        try:
            yield house
        finally:
            beating.stop()
            if desk.tracer:
                desk.tracer.close()
            app.close()
            session.engine_of(sessions).dispose()


def _ring(ring: intake.Ring, bell: bells.Bell) -> None:
    """Ring for a shard; where the broker is away, the next sweep does: the job is in the ledger, and accepted."""
    try:
        ring(bell)
    except BROKER_ERRORS as away:
        log.warning("no bell for shard %s: %s", bell.shard_id, str(away).splitlines()[0])


def _exposition(app: Celery, settings: Settings, sessions: sessionmaker[Session]) -> Exposition:
    look = partial(worker_bell.lengths, app, settings.models)
    return Exposition(sessions=sessions, look=look, max_waiting=settings.max_waiting_items)


def _note_used(house: House) -> None:
    """Note which keys were shown; on a request's way there is no time for a write."""
    used = set(house.used_keys)
    if used:
        with session.transaction(house.sessions) as transaction:
            keys.mark_used(transaction, used)
        house.used_keys.difference_update(used)
