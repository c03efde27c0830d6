"""The network of the trials fails as it says."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.chaos import proxy

PING, PONG = b"PING\r\n", b"+PONG\r\n"


@pytest.fixture(scope="module")
def target() -> Iterator[Path]:
    with servers.redis() as url:
        yield Path(url.removeprefix("redis+socket://"))


def test_it_passes_what_is_said_and_adds_latency(target: Path) -> None:
    with proxy.proxied(target) as network, _dialled(network) as connection:
        assert _asked(connection) == PONG
        network.mode, network.latency_s = "latency", 0.1
        started_s = time.monotonic()
        assert _asked(connection) == PONG
        assert time.monotonic() - started_s >= 0.2


def test_what_was_open_in_a_blackhole_stays_half_open(target: Path) -> None:
    with proxy.proxied(target) as network, _dialled(network) as old:
        assert _asked(old) == PONG
        network.mode = "blackhole"
        with pytest.raises(TimeoutError):
            _asked(old)
        network.mode = "pass"
        with pytest.raises(TimeoutError):
            _asked(old)
        with _dialled(network) as new:
            assert _asked(new) == PONG


def test_a_reset_ends_connections_and_refuses_new_ones(target: Path) -> None:
    with proxy.proxied(target) as network, _dialled(network) as old:
        assert _asked(old) == PONG
        network.mode = "reset"
        for connection in (old, _dialled(network)):
            with connection, pytest.raises(ConnectionError):
                _asked(connection)


def _dialled(network: proxy.Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", network.port), timeout=0.5)


def _asked(connection: socket.socket) -> bytes:
    connection.sendall(PING)
    answer = connection.recv(100)
    if not answer:
        raise ConnectionError("closed")
    return answer
