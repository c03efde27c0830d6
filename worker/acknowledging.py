"""Takes kombu's Redis transport. Gives it the way to let go of a message whose acknowledgement failed.

Knows nothing of tasks. A worker may have one message in hand, and kombu 5.7 counts one that it could not acknowledge
(Redis hung for the socket's 10 s, say) as being in hand for ever: the worker would never take another.
"""

from kombu.transport import redis
from redis.exceptions import RedisError


class LettingGo(redis.QoS):
    """Counts a message as done here, whatever Redis says: there it comes back, and finds nothing left to claim."""

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge. Raises what Redis raises."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except (RedisError, OSError):
            self._quick_ack(delivery_tag)
            raise

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject. Raises what Redis raises."""
        try:
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]
        except (RedisError, OSError):
            self._quick_ack(delivery_tag)
            raise
