"""Takes what lies in a queue, of any origin. Gives it as a message of Celery's protocol 2, or says why it is none.

Knows nothing of Celery's workers. They trust an envelope: one that is not JSON ends a worker, and one of another shape
may; what passes here they can read.
"""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kombu.utils.json import loads

from worker import messages

#: What is wrong with a text that is no JSON, or whose tagged values (kombu writes a UUID as one) cannot be made.
_UNREADABLE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)
_TEXT, _WHOLE = (str, type(None)), (int, type(None))
#: What a worker reads of a message's headers, with the types it expects; what else there may be is nobody's business.
_HEADERS: Mapping[str, tuple[type, ...]] = {
    "task": (str,),
    "id": (str,),
    **dict.fromkeys(("root_id", "parent_id", "group", "shadow", "origin", "eta", "expires"), _TEXT),
    **dict.fromkeys(("argsrepr", "kwargsrepr"), _TEXT),
    **dict.fromkeys(("retries", "group_index"), _WHOLE),
    "ignore_result": (bool, type(None)),
    "stamped_headers": (list, type(None)),
    "stamps": (dict, type(None)),
    "compression": (type(None),),  # nothing of ours is compressed, and a bomb would be
}
_PROPERTIES: Mapping[str, tuple[type, ...]] = {
    "delivery_tag": (str,),
    "delivery_info": (dict,),
    "priority": _WHOLE,
    **dict.fromkeys(("reply_to", "correlation_id"), _TEXT),
}
_DELIVERY: Mapping[str, tuple[type, ...]] = {"exchange": (str,), "routing_key": (str,)}
#: Characters of a message's short text that are shown.
MAX_SHOWN = 200
#: Of a message itself: JSON, as base64.
_FORM = {"content-type": "application/json", "content-encoding": "utf-8"}


class NoMessage(ValueError):
    """What lies in the queue is no message for us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message to one of our tasks."""

    headers: Mapping[str, Any]
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def task(self) -> str:
        """Name the task."""
        return str(self.headers["task"])


def read(raw: bytes, queue: str) -> Envelope:
    """Read a message of a queue. Raises `NoMessage`, with the reason and nothing of the content."""
    message = _parsed(raw)
    if not isinstance(message, dict):
        raise NoMessage("it is no object")
    headers = _checked(message.get("headers"), _HEADERS)
    properties = _checked(message.get("properties"), _PROPERTIES)
    _checked(properties["delivery_info"], _DELIVERY)
    if headers["task"] not in messages.TASKS.get(queue.partition(".")[0], ()):
        raise NoMessage("it names no task of this queue")
    if any(message.get(name) != value for name, value in _FORM.items()) or properties.get("body_encoding") != "base64":
        raise NoMessage("its content is no JSON in base64")
    _check_limits(headers.get("timelimit"))
    _check_times(headers.get("eta"), headers.get("expires"))
    return Envelope(headers=headers, **_content(message.get("body")))


def _parsed(raw: Any) -> Any:
    try:
        return loads(raw.decode())  # type: ignore[no-untyped-call]
    except _UNREADABLE:
        raise NoMessage("it is no JSON") from None


def _checked(fields: Any, known: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise NoMessage("it lacks headers or properties")
    for name, types in known.items():
        if type(fields.get(name)) not in types:
            raise NoMessage(f"its `{name}` makes no sense")
    return fields


def _check_limits(limits: Any) -> None:
    """Check the task's time limits, hard and soft."""
    if limits is None:
        return
    if not isinstance(limits, list) or len(limits) != 2 or {type(one) for one in limits} - {int, float, type(None)}:
        raise NoMessage("its `timelimit` makes no sense")


def _check_times(*times: str | None) -> None:
    try:
        for text in times:
            datetime.fromisoformat(text or "2026-11-24")
    except ValueError:
        raise NoMessage("its `eta` or `expires` makes no sense") from None


def _content(body: Any) -> dict[str, Any]:
    try:
        content = loads(b64decode(body, validate=True).decode())  # type: ignore[no-untyped-call]
    except _UNREADABLE:
        raise NoMessage("its content is no JSON in base64") from None
    match content:
        case [list() as args, dict() as kwargs, dict() | None]:
            return {"args": args, "kwargs": kwargs}
    raise NoMessage("its content is not a task's arguments")


def with_trace(fields: dict[str, Any], header: object) -> dict[str, Any]:
    """Give a submission's fields with the span that its header names, as instrumented producers send it."""
    is_span = isinstance(header, str) and messages.TRACEPARENT.fullmatch(header)
    return {"traceparent": header} | fields if is_span else fields


def shown(short: object) -> str:
    """Give a message's short text; one without our code gives none, and Celery writes all fields in its stead."""
    text = str(short or "{")
    return "{...}" if text.startswith("{") else text[:MAX_SHOWN]
