"""Takes photos. Gives what 200 callers of one image each reach over HTTP, beside the same images by the Python client.

Knows nothing of how work travels. `python -m bench.http --json FILE`; both sides run on one stack, in turn.
"""

import argparse
import http.client
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench import latency, rows, stacks
from bench.stacks import MODEL, Bench
from db import keys, session
from pipeline import backbones
from tests import data, servers
from worker import runtime
from worker.cli import output

#: Seconds that the server may take to listen.
START_S = 30.0


def main() -> int:
    """Measure and print."""
    asked = _arguments()
    say = output.errors().print
    photos = [photo.as_uri() for photo in sorted((data.place() / "imagenet-sample" / "images").iterdir())]
    named = [photos[number % len(photos)] for number in range(asked.clients * asked.each)]
    torch.manual_seed(0)
    network = backbones.build(latency.ARCH, num_classes=latency.NUM_CLASSES).eval()
    with stacks.running(latency.ARCH, network, latency.NUM_CLASSES) as bench:
        found = _compare(bench, named, asked, say)
    rows.show("HTTP beside the Python client", found)
    if asked.json:
        rows.write(Path(asked.json), found)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.http", description="Measure many small callers over HTTP.")
    parser.add_argument("--clients", type=int, default=200, help="callers at once")
    parser.add_argument("--each", type=int, default=8, help="images that each caller sends, one after another")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of both sides, in turn")
    parser.add_argument("--json", metavar="FILE", help="write the figures too")
    return parser.parse_args()


def _compare(bench: Bench, named: list[str], asked: argparse.Namespace, say: Callable[[str], object]) -> list[rows.Row]:
    python, web = "from bench import latency; latency.call()", "from bench import http; http.call()"
    reached = {"broker_url": bench.stack.settings.broker_url}
    rates: tuple[list[float], list[float]] = ([], [])
    waits: tuple[list[list[float]], list[list[float]]] = ([], [])
    with (
        latency.callers(python, reached, asked.clients, named) as by_client,
        latency.callers(web, _served(bench), asked.clients, named) as by_http,
    ):
        for number in range(asked.rounds):
            say(
                f"{len(named)} photos from {asked.clients} callers, by the client and over HTTP, round {number + 1} ..."
            )
            for side, go in enumerate((by_http, by_client)):
                started_s = time.perf_counter()
                waits[side].append(sorted(go()))
                rates[side].append(len(named) / (time.perf_counter() - started_s))
    work, against = f"{asked.clients} HTTP callers, one photo at a time", "as many Python clients"
    return [
        rows.Row(
            work=f"{work}, {len(named)} in all", against=against, ours=tuple(rates[0]), theirs=tuple(rates[1]),
            unit="images/s", note="each: submit, wait, read the outcome, on one connection",
        ),
        *(
            rows.Row(
                work=f"{work}, {name} of a caller's wait", against=against,
                ours=tuple(latency.at(times, share) for times in waits[0]),
                theirs=tuple(latency.at(times, share) for times in waits[1]), unit="ms",
            )
            for name, share in (("p50", 0.5), ("p99", 0.99))
        ),
    ]  # fmt: skip


def _served(bench: Bench) -> dict[str, object]:
    """Start the server beside the stack; give its port and a key."""
    port, secret = servers.free_port(), keys.draw()
    with runtime.ledger(bench.stack.settings) as sessions, session.transaction(sessions) as transaction:
        keys.add(transaction, secret, name="bench", scopes=("submit",))
    bench.stack.start("http", "serve", "--port", str(port))
    give_up_s = time.monotonic() + START_S
    while not _answers(port):
        assert time.monotonic() < give_up_s, f"The server did not start; see {bench.stack.logs}."
        time.sleep(0.1)
    return {"port": port, "key": secret}


def _answers(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == 200
    except OSError:
        return False


def call() -> None:
    """Be one process of callers, each with a connection of its own."""
    asked = json.loads(sys.stdin.readline())
    connections = [
        http.client.HTTPConnection("127.0.0.1", asked["port"], timeout=latency.PATIENCE_S)
        for _ in range(asked["clients"])
    ]
    headers = {"Authorization": f"Bearer {asked['key']}", "Content-Type": "application/json"}
    latency.answer(asked, [partial(_classify, connection, headers) for connection in connections])


def _classify(connection: http.client.HTTPConnection, headers: dict[str, str], photo: str) -> None:
    wanted = {"model": MODEL, "items": [photo], "priority": "interactive"}
    job = json.loads(_ask(connection, headers, "POST", "/v1/jobs", json.dumps(wanted)))
    job = json.loads(_ask(connection, headers, "GET", f"/v1/jobs/{job['id']}?wait_s=60"))
    assert job["status"] == "succeeded", job
    [outcome] = _ask(connection, headers, "GET", job["results_url"]).splitlines()
    assert json.loads(outcome)["label"] is not None


def _ask(
    connection: http.client.HTTPConnection, headers: dict[str, str], method: str, path: str, body: str | None = None
) -> bytes:
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    read = answer.read()
    assert answer.status in (200, 202), (answer.status, read)
    return read


if __name__ == "__main__":
    sys.exit(main())
