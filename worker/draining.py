"""Takes what the ledger asks of this worker. Gives a Celery consumer that takes no more messages, or takes them again.

Knows nothing of tasks. Runs in the pool's parent, which alone takes messages: a thread reads the ledger, for a ledger
that is away must not hold up Celery's loop, and the loop does what was read.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.consumer.tasks import Tasks
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from db import drains, errors, session

log = logging.getLogger(__name__)

#: Seconds between two looks into the ledger, and between two of Celery's loop at what was found.
EVERY_S = 2.0


class Watch:
    """What is asked of this worker, kept up to date until the process ends."""

    def __init__(
        self, sessions: sessionmaker[Session], place: drains.Place, queues: Sequence[str], *, every_s: float = EVERY_S
    ) -> None:
        self.queues = tuple(queues)
        self.every_s = every_s
        self.is_asked = False
        #: said by Celery's loop: no queue is read, and nothing taken from one is unfinished
        self.is_idle = False
        self._sessions = sessions
        self._place = place
        self._stop = threading.Event()

    def start(self) -> None:
        """Forget what was asked of an earlier process of this number, and look from now on. Raises `LedgerError`."""
        with session.transaction(self._sessions) as transaction:
            drains.take_back(transaction, [self._place])
        threading.Thread(target=self._run, name="drain", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def look(self) -> None:
        """Read what is asked, and tell when it is done. Raises `LedgerError`."""
        with session.reading(self._sessions) as reading:
            found = drains.asked(reading, self._place)
        if self.is_asked != (found is not None):
            self.is_asked, self.is_idle = found is not None, False
            log.info("asked to drain by %s: %s", found.who, found.reason) if found else log.info("takes work again")
        elif found and self.is_idle and found.drained_at_s is None:
            with session.transaction(self._sessions) as transaction:
                drains.note_drained(transaction, self._place)
            log.info("drained")

    def _run(self) -> None:
        while not self._stop.wait(self.every_s):
            try:
                self.look()
            except (errors.LedgerError, SQLAlchemyError) as away:
                log.warning("no look at what is asked: %s", str(away).splitlines()[0])


def step(watch: Watch) -> type[bootsteps.StartStopStep]:
    """Make the part of a Celery consumer that follows the watch."""

    class Draining(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
        """Follows what is asked, as long as there is a connection."""

        requires = (Tasks,)

        def start(self, consumer: Any) -> None:
            """Look again and again from Celery's own loop."""
            self._looking = consumer.timer.call_repeatedly(watch.every_s / 2, follow, (watch, consumer))

        def stop(self, _: Any) -> None:
            """Look no more; a new connection starts anew."""
            self._looking.cancel()

    return Draining


def follow(watch: Watch, consumer: Any) -> None:
    """Take messages, or none, as is asked; tell whether anything is left in hand."""
    wanted = () if watch.is_asked else watch.queues
    read = consumer.app.amqp.queues.consume_from
    for queue in [name for name in read if name not in wanted]:
        consumer.cancel_task_queue(queue)
    for queue in [name for name in wanted if name not in read]:
        consumer.add_task_queue(queue)
    watch.is_idle = watch.is_asked and not state.reserved_requests and not state.active_requests
