"""Takes bells from a model's queues. Gives recorded shards. Knows nothing of how a shard is classified."""

import logging
from typing import Any

from celery import current_app, shared_task, signals

from db.errors import LedgerError
from worker import lines, logs, messages, ringing, runtime, stopping
from worker.settings import read_settings

logs.take_over("classify")

log = logging.getLogger(__name__)

_serving: list[runtime.Serving] = []


class HostMemoryExhausted(Exception):
    """The host has no memory left for this shard; it was given back."""


@signals.worker_process_init.connect
def open_serving(**_: object) -> None:
    """Load and warm what serves before this child takes work."""
    app = current_app._get_current_object()
    stopping.listen()
    serving = runtime.open_or_end("classify", lambda: runtime.open_serving(app, read_settings(), stopping.is_stopping))
    if serving is not None:
        _serving.append(serving)


@signals.worker_process_shutdown.connect
def close_serving(**_: object) -> None:
    """Stop the heartbeat and close the pool."""
    while _serving:
        _serving.pop().close()


@shared_task(name=messages.CLASSIFY, max_retries=3, default_retry_delay=5, ignore_result=True)
def classify(shard: Any = None) -> None:
    """Classify the shard, and others that wait for the same version."""
    try:
        number = messages.parse_shard_id(shard)
    except messages.MessageInvalid as wrong:
        log.warning("a bell of no shard is dropped: %s", wrong)
        return
    with lines.about(shard=number):
        _classify(number)


def _classify(shard: int) -> None:
    try:
        tally = _serving[0].sit(shard)
    except LedgerError as away:
        # The shard waits, or its lease runs out, and a sweep rings for it again.
        log.error("shard %s is left for later: %s", shard, away)
        return
    except MemoryError:
        # Celery 5.7 ends the whole worker on a task's MemoryError, and the message comes back to kill the next.
        raise HostMemoryExhausted(f"shard {shard}") from None
    log.info("shard %s: %s", shard, tally)
    ringing.ring_all(_serving[0].ring, tally.left)
