"""Takes a bell from the ledger. Gives a message on the queue of its model and priority.

Knows nothing of SQL's or torch's doings; the message names a shard and nothing else.
"""

from collections.abc import Iterable

from celery import Celery

from db.bells import Bell
from worker import messages

#: Seconds after which a look at drift is not worth having any more: the next tick asks again.
DRIFT_EXPIRES_S = 60.0


def ring(app: Celery, bell: Bell) -> None:
    """Send the classify message for a shard; its short text in Flower says job, items and version."""
    app.send_task(
        messages.CLASSIFY,
        kwargs={"shard": bell.shard_id},
        queue=messages.classify_queue(bell.model, bell.priority),
        argsrepr="()",
        kwargsrepr=f"shard {bell.shard_id}, job {bell.job_id}, {bell.num_items} items",
        ignore_result=True,
    )


def ring_run(app: Celery, run_id: int) -> None:
    """Send the learn message for a run."""
    app.send_task(
        messages.LEARN,
        kwargs={"run": run_id},
        queue=messages.LEARN_QUEUE,
        argsrepr="()",
        kwargsrepr=f"run {run_id}",
        ignore_result=True,
    )


def ring_drift(app: Celery, model: str) -> None:
    """Ask the learn worker to look at a model's latest predictions; one that is busy looks later, or not at all."""
    app.send_task(
        messages.WATCH_DRIFT,
        kwargs={"model": model},
        queue=messages.LEARN_QUEUE,
        argsrepr="()",
        kwargsrepr=model,
        ignore_result=True,
        expires=DRIFT_EXPIRES_S,
    )


def num_ringing(app: Celery, queues: Iterable[str]) -> dict[str, int]:
    """Count the messages that wait in each queue."""
    with app.connection_for_read() as connection:
        redis = connection.default_channel.client
        return {queue: int(redis.llen(queue)) for queue in queues}
