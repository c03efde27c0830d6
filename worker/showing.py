"""Takes messages that were answered behind the one in hand. Gives their events, as if Celery had handed each over.

Knows nothing of the answers. One message to those who watch (Flower), however many were answered; if Redis does not
take it, they miss it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery

from worker.client import BROKER_ERRORS

log = logging.getLogger(__name__)

#: Events that are sent as one message; more than are ever told at once.
MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A message that was answered, as far as anybody may see it."""

    id: str
    task: str
    #: Its short text.
    shown: str


class Show:
    """Tells events in the name of the worker whose child this is."""

    def __init__(self, app: Celery, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._dispatcher: Any = None

    def tell(self, answered: Sequence[Answered], *, began_s: float, ended_s: float) -> None:
        """Tell that each message was received and answered, at these epoch seconds."""
        try:
            if self._dispatcher is None:
                self._dispatcher = self._open()
            for one in answered:
                about = {"uuid": one.id, "name": one.task, "args": "()", "kwargs": one.shown}
                self._dispatcher.send("task-received", **about, root_id=one.id, retries=0, timestamp=began_s)
                self._dispatcher.send(
                    "task-succeeded", uuid=one.id, result="", runtime=ended_s - began_s, timestamp=ended_s
                )
            self._dispatcher.flush(errors=False)
        except BROKER_ERRORS as away:
            log.warning("Flower misses %s messages: %s", len(answered), str(away).splitlines()[0])
            self._dispatcher = None

    def _open(self) -> Any:
        return self._app.events.Dispatcher(
            self._app.connection_for_write(),
            hostname=self._hostname,
            buffer_while_offline=False,
            buffer_group=frozenset({"task"}),
            buffer_limit=MOST,
        )
