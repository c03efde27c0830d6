"""Takes every request. Gives its body so long and so much room, and counts what few may do at once.

Knows nothing of what a body holds.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.web.problems import RequestRefused, too_large

#: Seconds that the next bytes of a body may take.
READ_S = 20.0
#: Bytes a second that a body must come in on the whole, once it has had `READ_S`.
SLOWEST = 1024
#: Bytes, and seconds, for which a refused body is still read: a client that is writing does not read the answer.
DISCARD_BYTES, DISCARD_S = 1024 * 1024, 2.0


class BodyTimes:
    """Refuses bodies that come too slowly or are too long, and lets a client that is told so hear it."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._max_bytes)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not _expects_leave(scope):
                await body.discard()
            await send(message)

        await self._app(scope, body.receive, answer)


class _Body:
    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._started_s = time.monotonic()
        self._num_bytes = 0
        self._more = True

    async def receive(self) -> Message:
        if not self._more:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), READ_S)
        except TimeoutError:
            self._more = False
            raise self._too_slow() from None
        self._num_bytes += len(message.get("body", b""))
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        if self._num_bytes > self._max_bytes:
            self._more = False
            raise too_large(self._max_bytes)
        allowed_s = READ_S + self._num_bytes / SLOWEST
        if self._more and time.monotonic() - self._started_s > allowed_s:
            self._more = False
            raise self._too_slow()
        return message

    async def discard(self) -> None:
        """Read the rest of a body that nobody wants, if it is short and comes soon."""
        most = self._num_bytes + DISCARD_BYTES
        try:
            async with asyncio.timeout(DISCARD_S):
                while self._more and self._num_bytes < most:
                    await self.receive()
        except (TimeoutError, RequestRefused):
            self._more = False

    def _too_slow(self) -> RequestRefused:
        return RequestRefused(
            408,
            "request_timeout",
            f"The body came too slowly: it must not pause for {READ_S:.0f} s, nor fall below {SLOWEST} bytes a second.",
            headers={"Connection": "close"},
        )


def _expects_leave(scope: Scope) -> bool:
    """Whether the client sends no body before it is told to go on, which it is not."""
    return any(name == b"expect" for name, _ in scope["headers"])


@dataclass(slots=True, kw_only=True)
class Places:
    """How many may do a thing at once: one caller, and all together. Used by the event loop's thread alone."""

    what: str
    most: int
    most_of_one: int
    taken: Counter[str] = field(default_factory=Counter)

    def refuse_if_full(self, caller: str) -> None:
        """Raise `RequestRefused` where there is no place: 429, or 503 where others have taken them all."""
        if self.taken[caller] >= self.most_of_one:
            said = f"{self.most_of_one} {self.what} of one caller at once are the most; end one, or wait."
            raise RequestRefused(429, "too_many_at_once", said, retry_after_s=5.0)
        if self.taken.total() >= self.most:
            raise RequestRefused(503, "too_busy", f"There are too many {self.what} at the moment.", retry_after_s=5.0)

    @contextmanager
    def taking(self, caller: str) -> Iterator[None]:
        """Take a place. Raises `RequestRefused`."""
        self.refuse_if_full(caller)
        self.taken[caller] += 1
        try:
            yield
        finally:
            self.taken[caller] -= 1
            self.taken += Counter()  # forgets callers that have none
