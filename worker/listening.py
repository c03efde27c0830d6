"""Takes a job's id and a Redis client. Gives the notices that are left for those who listen for that job.

Knows nothing of Celery. The stream exists while somebody listens, so that nobody else's notices cost memory.
"""

import time
from typing import Any

from redis import Redis

from .messages import Notice, listening_key

#: Seconds that a stream outlives its last listener.
KEPT_S = 60
#: Seconds that one read blocks at most: less than the connection's timeout.
LONGEST_READ_S = 5.0


class Listening:
    """One listener; it hears what is told from now on. Several may listen for the same job."""

    def __init__(self, redis: "Redis", job_id: str) -> None:
        self._redis = redis
        self._key = listening_key(job_id)
        self._heard = self._open()

    def hear(self, within_s: float) -> Notice | None:
        """Wait for the next notice; None if there is none `within_s` seconds."""
        give_up_s = time.monotonic() + within_s
        while (left_s := give_up_s - time.monotonic()) > 0:
            block_ms = max(1, int(1000 * min(left_s, LONGEST_READ_S)))
            # A list or a dictionary of streams, as the protocol's version has it.
            read: Any = self._redis.xread({self._key: self._heard}, block=block_ms)
            streams = dict(read or ())
            for self._heard, entry in (one for entries in streams.values() for one in entries):
                if b"told" in entry:
                    return Notice.parse(entry[b"told"])
            if not streams and not self._redis.expire(self._key, KEPT_S):
                self._heard = self._open()  # the broker has forgotten it
        return None

    def close(self) -> None:
        """Let go of the stream, which nobody else listens to."""
        self._redis.unlink(self._key)

    def _open(self) -> bytes:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.xadd(self._key, {"listens": ""})
            pipe.expire(self._key, KEPT_S)
            last: bytes = pipe.execute()[0]
        return last
