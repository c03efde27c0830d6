"""Takes a server's address and requests. Gives their answers, with a fixed number of requests on their way at any time.

Each client of that number sends its next request when it has an answer. Knows nothing of which server answers.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import aiohttp

#: seconds one answer may take
ANSWER_S = 60.0
#: seconds a server may take to load
START_S = 120.0


def await_ready(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until `url` answers 200; raise if the server ends first, or is late."""
    give_up_s = time.monotonic() + START_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > give_up_s:
            raise RuntimeError(f"The server did not start; it ended with {process.poll()}.")
        time.sleep(0.1)


def post_all(url: str, bodies: Sequence[Any], *, in_flight: int) -> list[Any]:
    """Post each body as JSON; give the answers, parsed, in the bodies' order."""
    return asyncio.run(_post_all(url, bodies, in_flight))


async def _post_all(url: str, bodies: Sequence[Any], in_flight: int) -> list[Any]:
    answers: list[Any] = [None] * len(bodies)
    waiting = iter(enumerate(bodies))
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, headers={"Accept-Encoding": "identity"}
    ) as session:

        async def client() -> None:
            for number, body in waiting:
                async with session.post(url, json=body) as response:
                    response.raise_for_status()
                    answers[number] = await response.json()

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(client())
    return answers


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own loopback address
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
