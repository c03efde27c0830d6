"""A message whose acknowledgement fails keeps no worker from the next one."""

from pathlib import Path

import pytest
from redis.exceptions import RedisError

from tests.chaos import proxy
from worker import app, messages, transport
from worker.settings import Settings


@pytest.mark.parametrize("end", ["ack", "reject", "requeue"])
def test_a_message_that_cannot_be_acknowledged_is_let_go(redis_url: str, end: str) -> None:
    with proxy.proxied(Path(redis_url.removeprefix("redis+socket://"))) as network:
        settings = Settings(broker_url=f"redis://127.0.0.1:{network.port}/0").resolved()
        with app.create_app(settings, amqp=transport.Checking) as mill, mill.connection() as connection:
            channel = connection.default_channel
            channel.basic_qos(0, 1, False)
            name = messages.classify_queue("cats", messages.BULK)
            mill.send_task(messages.CLASSIFY, (1,), queue=name)
            with connection.SimpleQueue(name) as queue:
                message = queue.get(timeout=5)
                assert not channel.qos.can_consume()
                network.mode = "reset"
                with pytest.raises((RedisError, OSError)):
                    getattr(message, end)()
                assert channel.qos.can_consume()
                network.mode = "pass"
