"""Takes a server's Unix socket. Gives a TCP port of the loopback that leads to it, through a network that fails.

Knows nothing of what is said.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Mode = Literal["pass", "latency", "blackhole", "reset"]

#: bytes read at once
CHUNK = 64 * 1024


@dataclass(slots=True)
class Proxy:
    """A network; its mode may be changed at any time, from any thread."""

    target: Path
    #: seconds that `latency` adds to each stretch of bytes
    latency_s: float = 0.05
    port: int = 0
    _mode: Mode = "pass"
    #: how often it was reset
    _resets: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @property
    def mode(self) -> Mode:
        """What it does to bytes and connections."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        self._resets += mode == "reset"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection. What was open in a blackhole stays half-open for ever, as behind a lost route."""
        if self._mode == "reset":
            writer.transport.abort()
            return
        there, back = await asyncio.open_unix_connection(self.target)
        pumps = [asyncio.create_task(one) for one in (self._pump(reader, back), self._pump(there, writer))]
        try:
            await asyncio.wait([*pumps, asyncio.create_task(self._broken())], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (writer, back):
                end.transport.abort()

    async def _broken(self) -> None:
        """Wait until connections are reset."""
        resets = self._resets
        while resets == self._resets:
            await asyncio.sleep(0.02)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        was_swallowed = False
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if self._mode == "reset":
                    return
                was_swallowed = was_swallowed or self._mode == "blackhole"
                if was_swallowed:
                    continue
                if self._mode == "latency":
                    await asyncio.sleep(self.latency_s)
                writer.write(data)
                await writer.drain()


@contextmanager
def proxied(target: Path) -> Iterator[Proxy]:
    """Run a proxy in a thread of its own."""
    proxy = Proxy(target)
    is_open, closing = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
            proxy.port = server.sockets[0].getsockname()[1]
            is_open.set()
            await closing.wait()
            proxy.mode = "reset"
            await asyncio.sleep(0.1)

    thread = threading.Thread(target=lambda: proxy._loop.run_until_complete(run()), name="proxy", daemon=True)
    thread.start()
    assert is_open.wait(5)
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(closing.set)
        thread.join(5)
        proxy._loop.close()
