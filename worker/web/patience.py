"""Takes a connection. Gives it so long to say what it wants and to take what it asked for, and no longer.

Knows nothing of requests' meaning. A slow client costs a socket and a timer: never a thread, never another's turn.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.web import problems

#: Seconds from a request's first byte, or a connection's start, to the end of its head.
HEAD_S = 15.0
#: Seconds for which a client may take nothing of its answer.
TAKE_S = 60.0
#: Bytes of a request's head at most.
MAX_HEAD = 32 * 1024


class Patient(H11Protocol):
    """uvicorn's connection, with an end to its patience."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head = _Clock(self.loop, HEAD_S, self._give_up)
        self._taking = _Clock(self.loop, TAKE_S, self._abort)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a head."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn says Transport, as it is
        self._head.start()

    def data_received(self, data: bytes) -> None:
        """Read; the clock runs from a head's first byte, for what keeps coming byte by byte is never idle."""
        super().data_received(data)
        if self._has_request():
            self._head.stop()
        else:
            self._head.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._head.stop()
        self._taking.stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to take what was written."""
        super().pause_writing()
        self._taking.start()

    def resume_writing(self) -> None:
        """The client took it."""
        super().resume_writing()
        self._taking.stop()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are not for callers
        """Say in our form of words that this is no HTTP."""
        self._refuse(400, "bad_request", "This is no HTTP request, or its head is too large.")

    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _abort(self) -> None:
        self.transport.abort()

    def _give_up(self) -> None:
        if not self._has_request() and not self.transport.is_closing():
            self._refuse(408, "request_timeout", f"The request's head did not arrive within {HEAD_S:.0f} s.")

    def _refuse(self, status: int, kind: str, detail: str) -> None:
        answer = problems.answer(problems.RequestRefused(status, kind, detail))
        try:
            headers = [*answer.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # an answer was under way: there is nothing more to say
        self.transport.close()


class _Clock:
    """Calls once, so long after its start, unless it is stopped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, then: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._then = then
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start, unless it runs already."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._ring)

    def stop(self) -> None:
        """Stop, so that it may be started anew."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._then()
