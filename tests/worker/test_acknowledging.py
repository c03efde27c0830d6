"""A message whose acknowledgement fails keeps no worker from the next one."""

from pathlib import Path

import pytest
from kombu import Connection
from redis.exceptions import RedisError

from tests.chaos import proxy
from worker import acknowledging


@pytest.mark.parametrize("end", ["ack", "reject", "requeue"])
def test_a_message_that_cannot_be_acknowledged_is_let_go(redis_url: str, end: str) -> None:
    acknowledging.let_go()
    with (
        proxy.proxied(Path(redis_url.removeprefix("redis+socket://"))) as network,
        Connection(f"redis://127.0.0.1:{network.port}/0") as connection,
    ):
        channel = connection.default_channel
        channel.basic_qos(0, 1, False)
        with connection.SimpleQueue("bells") as queue:
            queue.put({})
            message = queue.get(timeout=5)
            assert not channel.qos.can_consume()
            network.mode = "reset"
            with pytest.raises((RedisError, OSError)):
                getattr(message, end)()
            assert channel.qos.can_consume()
            network.mode = "pass"
