"""A Redis that hangs, or that the network has swallowed, costs a caller ten seconds at most, and less if it says so."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis

from tests.chaos import proxy
from worker.client import BrokerUnreachable, Client, NotAcknowledged, Unfinished
from worker.messages import INTAKE_QUEUE, KEY_PREFIX

JOB = "11111111-2222-4333-8444-555555555555"
REFERENCES = ["s3://bucket/1.jpg"]
#: what a caller does -> the bound it asked for, if any
ASKED: dict[str, tuple[float | None, Callable[[Client], object]]] = {
    "submit": (None, lambda one: one.submit(REFERENCES)),
    "status": (None, lambda one: one.status(JOB)),
    "label": (None, lambda one: one.label([("s3://bucket/1.jpg", "cat")])),
    "classify": (None, lambda one: one.classify(REFERENCES)),
    "ping": (None, lambda one: one.ping()),
    "classify within": (3.0, lambda one: one.classify(REFERENCES, timeout_s=3.0)),
    "wait within": (3.0, lambda one: one.wait(JOB, timeout_s=3.0)),
}
#: seconds that a caller who names no bound waits at most (reliability, row 10), and beyond a bound it names
SAID_S, BEYOND_S = 10.0, 2.5


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A connection of our own, while the server runs."""
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as connection:
        yield connection


@pytest.fixture
def server(redis: Redis) -> Iterator[int]:
    """The server's process, which goes on in the end."""
    process = redis.info("server")["process_id"]
    yield process
    os.kill(process, signal.SIGCONT)


@pytest.fixture(params=["hung", "vanished"])
def broker(request: pytest.FixtureRequest, redis_url: str, server: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """A broker's URL, and what takes it away."""
    with proxy.proxied(Path(redis_url.removeprefix("redis+socket://"))) as network:

        def take_away() -> None:
            if request.param == "hung":
                os.kill(server, signal.SIGSTOP)
            else:
                network.mode = "blackhole"

        yield f"redis://127.0.0.1:{network.port}/0", take_away
        os.kill(server, signal.SIGCONT)


def warmed(url: str, timeout_s: float) -> Client:
    """A client that has published and asked before, as a service's has."""
    one = Client(url, timeout_s=0.2)
    with suppress(NotAcknowledged):
        one.status(JOB)
    one.timeout_s = timeout_s
    return one


def told_after_s(one: Client, ask: Callable[[Client], object]) -> float:
    """Seconds until the caller is told that nobody answers."""
    began_s = time.monotonic()
    with one, pytest.raises((BrokerUnreachable, Unfinished)):
        ask(one)
    return time.monotonic() - began_s


def test_a_warm_caller_is_told_in_ten_seconds_or_in_the_time_it_gave(
    broker: tuple[str, Callable[[], None]],
) -> None:
    url, take_away = broker
    callers = {name: (warmed(url, 60.0), ask) for name, (_, ask) in ASKED.items()}
    # A bound of the client's own is kept, too.
    callers["status within"] = (warmed(url, 1.0), ASKED["status"][1])
    take_away()
    with ThreadPoolExecutor(len(callers)) as pool:
        told = {name: pool.submit(told_after_s, *caller) for name, caller in callers.items()}
        after_s = {name: one.result(60) for name, one in told.items()}
    bounds_s = {name: SAID_S if bound_s is None else bound_s + BEYOND_S for name, (bound_s, _) in ASKED.items()}
    bounds_s["status within"] = 1.0 + BEYOND_S
    assert {name: took_s for name, took_s in after_s.items() if took_s > bounds_s[name]} == {}


def answer(redis: Redis, one: Client) -> None:
    """Be intake: say that the job has ended, to all who ask."""
    status = {"job_id": JOB, "model": "cats", "version": "cats:1", "state": "succeeded", "created_at_s": 1.5}
    stored = {"status": "SUCCESS", "result": {"ok": status | {"num_items": 1, "num_succeeded": 1, "num_failed": 0}}}
    while waits := redis.brpop(f"{KEY_PREFIX}{INTAKE_QUEUE}", timeout=3):
        question = json.loads(waits[1])["headers"]["id"]
        redis.set(one._replies.get_key_for_task(question), json.dumps(stored))


def test_who_waits_for_a_job_waits_through_a_short_outage(redis_url: str, redis: Redis, server: int) -> None:
    with warmed(redis_url, 30.0) as one, ThreadPoolExecutor(1) as pool:
        os.kill(server, signal.SIGSTOP)
        waiting = pool.submit(one.wait, JOB, timeout_s=60.0)
        with pytest.raises(FutureTimeout):
            waiting.result(8.0)  # longer than any other caller waits
        os.kill(server, signal.SIGCONT)
        answer(redis, one)
        assert waiting.result(1.0).state == "succeeded"
