"""Takes a bell from the ledger. Gives a message on the queue of its model and priority.

Knows nothing of SQL's or torch's doings; the message names a shard and nothing else.
"""

from collections.abc import Callable, Iterable, Mapping

from celery import Celery

from db.bells import Bell
from worker import messages
from worker.client import BROKER_ERRORS
from worker.ringing import BellLost

#: Names a version by its id; None where it cannot be told just now.
NameOf = Callable[[int], str | None]
#: Seconds after which a look at drift is not worth having any more: the next tick asks again.
DRIFT_EXPIRES_S = 60.0


def ring(app: Celery, bell: Bell, name_of: NameOf = lambda _: None) -> None:
    """Send the classify message for a shard; its short text in Flower says job, items and version."""
    queue = messages.classify_queue(bell.model, bell.priority)
    pinned = None if bell.version_id is None else name_of(bell.version_id)
    version = f"{bell.model}:latest" if bell.version_id is None else pinned or bell.model
    shown = f"shard {bell.shard_id}, job {bell.job_id}, {bell.num_items} items, {version}"
    _send(app, messages.CLASSIFY, queue, {"shard": bell.shard_id}, shown)


def ring_run(app: Celery, run_id: int) -> None:
    """Send the learn message for a run."""
    _send(app, messages.LEARN, messages.LEARN_QUEUE, {"run": run_id}, f"run {run_id}")


def ring_drift(app: Celery, model: str) -> None:
    """Ask the learn worker to look at a model's latest predictions; one that is busy looks later, or not at all."""
    _send(app, messages.WATCH_DRIFT, messages.LEARN_QUEUE, {"model": model}, model, expires_s=DRIFT_EXPIRES_S)


def num_ringing(app: Celery, queues: Iterable[str]) -> dict[str, int]:
    """Count the messages that wait in each queue."""
    with app.connection_for_read() as connection:
        redis = connection.default_channel.client
        return {queue: int(redis.llen(queue)) for queue in queues}


def lengths(app: Celery, models: Iterable[str]) -> dict[str, int]:
    """Count the messages that wait in each queue of a stack that serves these models. Raises OSError without Redis."""
    classify = [messages.classify_queue(model, urgency) for model in models for urgency in messages.PRIORITIES]
    try:
        with app.connection_for_read() as connection:
            # Else it would try again for ever.
            connection.ensure_connection(max_retries=1, interval_start=0.1)
        return num_ringing(app, [messages.INTAKE_QUEUE, messages.UPKEEP_QUEUE, messages.LEARN_QUEUE, *classify])
    except BROKER_ERRORS as away:
        raise OSError(str(away)) from None


def _send(
    app: Celery, task: str, queue: str, kwargs: Mapping[str, object], shown: str, *, expires_s: float | None = None
) -> None:
    """Send a message whose answer nobody waits for; `shown` is its text in Flower. Raises `BellLost`."""
    try:
        app.send_task(
            task,
            kwargs=dict(kwargs),
            queue=queue,
            argsrepr="()",
            kwargsrepr=shown,
            ignore_result=True,
            expires=expires_s,
        )
    except BROKER_ERRORS as away:
        raise BellLost(f"no bell for {shown}") from away
