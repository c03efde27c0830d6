"""Takes a bell from the ledger. Gives a message on the queue of its model and priority.

Knows nothing of SQL's or torch's doings; the message names a shard and nothing else.
"""

from collections.abc import Iterable

from celery import Celery

from db.bells import Bell
from worker import messages


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


def num_ringing(app: Celery, queues: Iterable[str]) -> dict[str, int]:
    """Count the messages that wait in each queue."""
    with app.connection_for_read() as connection:
        redis = connection.default_channel.client
        return {queue: int(redis.llen(queue)) for queue in queues}
