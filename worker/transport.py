"""Takes Celery's connection to Redis. Gives a worker one that hands it messages of ours alone, and few remote commands.

Knows nothing of what the messages are for. Whoever may write to a queue can then neither end a worker nor order it
about; what is dropped here cost nobody a job, for jobs are in the ledger.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.app.amqp import AMQP
from celery.worker.control import Panel
from celery.worker.request import Request
from kombu.connection import Connection
from kombu.transport import redis

from worker import envelopes
from worker.acknowledging import LettingGo

log = logging.getLogger(__name__)

#: Remote commands that are answered: what Flower asks, and `heartbeat`, by which it learns who is there. Orders
#: (shutdown, revoke, pool_restart ...) are not taken.
ANSWERED = frozenset({
    "ping", "stats", "active_queues", "registered", "scheduled", "active", "reserved", "revoked", "conf", "heartbeat",
})  # fmt: skip

#: In a key, between a queue's name and a priority above none.
SEPARATOR = redis.Channel.sep


class _Redis(redis.PrefixedStrictRedis):
    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """Read an answer; a thing from a queue that is no message is dropped, as if there had been none."""
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name == "BRPOP" and answer:
            key, raw = answer
            queue = key.decode().partition(SEPARATOR)[0]
            try:
                envelopes.read(raw, queue)
            except envelopes.NoMessage as wrong:
                log.warning("dropped %s bytes from the queue %s: %s", len(raw), queue, wrong)
                return None
        return answer


class _Checking:
    QoS = LettingGo
    global_keyprefix: str

    def _get_client(self) -> Callable[..., _Redis]:
        return partial(_Redis, global_keyprefix=self.global_keyprefix)


class _Channel(_Checking, redis.Channel):
    pass


class _SentinelChannel(_Checking, redis.SentinelChannel):
    pass


class _Transport(redis.Transport):
    Channel = _Channel


class _SentinelTransport(redis.SentinelTransport):
    Channel = _SentinelChannel


class _Connection(Connection):
    def get_transport_cls(self) -> type:
        """Choose the transport that checks, of the kind that the URL asks for."""
        usual = super().get_transport_cls()  # type: ignore[no-untyped-call]
        return _SentinelTransport if issubclass(usual, redis.SentinelTransport) else _Transport


class Checking(AMQP):  # type: ignore[misc]  # Celery has no types
    """What an app's messages travel by, if it is a worker's."""

    Connection = _Connection


class Unshown(Request):  # type: ignore[misc]
    """A message whose fields no event, no page of Flower and no answer to an inspection shows: they hold references.

    A producer's own short text is shown. One without our code gives none, and Celery writes all fields in its stead.
    """

    def __init__(self, message: Any, **about: Any) -> None:
        super().__init__(message, **about)
        shown = {"argsrepr": "()", "kwargsrepr": envelopes.shown(self._request_dict.get("kwargsrepr"))}
        self._argsrepr, self._kwargsrepr = shown.values()
        self._request_dict.update(shown)

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """Describe the message to who inspects the worker."""
        described: dict[str, Any] = super().info(safe=True)
        return described


def take_no_orders() -> None:
    """Forget, in this process, the remote commands that are not answered."""
    for name in Panel.data.keys() - ANSWERED:
        del Panel.data[name]
