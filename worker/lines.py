"""Takes what a piece of work concerns: job, shard, version, run. Gives it to every line that is logged meanwhile.

Knows nothing of Celery. The one place that says how a line looks, as text or as JSON.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: What a line may concern, in the order it is told.
CONCERNS = ("job", "shard", "version", "run", "model")
TEXT = "%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s"

_concerns: ContextVar[dict[str, str] | None] = ContextVar("concerns", default=None)


@contextmanager
def about(**concerns: object) -> Iterator[None]:
    """Say what the lines logged inside concern, beside what those around them do."""
    token = _concerns.set({**(_concerns.get() or {}), **_told(concerns)})
    try:
        yield
    finally:
        _concerns.reset(token)


def found(**concerns: object) -> None:
    """Add what was only found out inside `about`, for the rest of it; without one around it, nothing is added."""
    known = _concerns.get()
    if known is not None:
        known.update(_told(concerns))


def concerns() -> dict[str, str]:
    """Give what a line logged now would concern."""
    known = _concerns.get() or {}
    return {name: known[name] for name in CONCERNS if name in known}


class Text(logging.Formatter):
    """One line for people, with what it concerns at its end."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Write the line; a traceback comes behind it."""
        told = " ".join(f"{name}={value}" for name, value in concerns().items())
        return super().formatMessage(record) + (f" [{told}]" if told else "")


class Json(logging.Formatter):
    """One line for programs: a JSON object, whatever the message holds."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Write the object."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "role": self._role,
            "process": record.process,
            "message": record.getMessage(),
            **concerns(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _told(concerns: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in concerns.items() if value is not None}
