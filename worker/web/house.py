"""Takes the settings. Gives what the HTTP process owns, from its start to its end.

Knows nothing of HTTP. Images are decoded by intake and the workers, never here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.orm import Session, sessionmaker

from db import keys, session
from worker import bell, intake, runtime
from worker.app import create_app
from worker.client import Client
from worker.exposition import Exposition
from worker.settings import Settings

#: The role under which this process shows in the ledger.
ROLE = "http"


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
    #: Keys that were shown since the last beat, by their ids.
    used_keys: set[int] = field(default_factory=set)


@contextmanager
def opened(settings: Settings) -> Iterator[House]:
    """Connect to the ledger and the broker, and show in the ledger that this process lives. Raises `LedgerError`."""
    app = create_app(settings)
    sessions = runtime.open_ledger(settings)
    desk = runtime.open_desk(app, settings, sessions, role=ROLE)
    told = Exposition(
        sessions=sessions, look=partial(bell.lengths, app, settings.models), max_waiting=settings.max_waiting_items
    )
    with Client(settings.broker_url) as client:
        house = House(settings=settings, sessions=sessions, desk=desk, client=client, exposition=told)
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


def _note_used(house: House) -> None:
    """Note which keys were shown; on a request's way there is no time for a write."""
    used = set(house.used_keys)
    if used:
        with session.transaction(house.sessions) as transaction:
            keys.mark_used(transaction, used)
        house.used_keys.difference_update(used)
