"""Takes an object of any origin, as it came off the wire. Gives its fields one by one, checked.

Knows nothing of what the fields are for: standard library only. Every refusal is a sentence that names the field.
"""

import base64
import binascii
import re
import uuid
from collections.abc import Mapping, Sequence, Set
from typing import Any, Protocol, TypeVar

#: Characters in a reference, a key or any other text.
MAX_TEXT = 4096
#: Seconds that no deadline reaches: 30,000 years, and well within any database's numbers.
MAX_SECONDS = 1e12

Choice = TypeVar("Choice", bound=str)


#: Characters of a refusal's sentence, which may quote what was sent.
MAX_SENTENCE = 1000


class MessageInvalid(ValueError):
    """The message does not have the documented form."""

    def __init__(self, sentence: str = "") -> None:
        super().__init__(printable(sentence, most=MAX_SENTENCE))


def printable(text: str, *, most: int) -> str:
    """Give what somebody else wrote so that it can be told to anybody: its first characters, none of them a half."""
    return text[:most].encode(errors="replace").decode()


class Weighed(Protocol):
    """What a message carries several of."""

    @property
    def num_bytes(self) -> int:
        """About what it takes in a message."""


def fields_of(wire: Any, what: str, known: Set[str]) -> Mapping[str, Any]:
    """Give the object's fields. Raises `MessageInvalid` if it is no object, or has a field that is not known."""
    if not isinstance(wire, Mapping):
        raise MessageInvalid(f"{what.capitalize()} must be an object, not {type(wire).__name__}.")
    if not wire.keys() <= known:
        unknown = sorted(str(name) for name in wire if name not in known)
        raise MessageInvalid(f"Unknown field in {what}: {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")
    return wire


def rows_of(fields: Mapping[str, Any], name: str, *, most: int) -> Sequence[Any]:
    """Give a list of at least one and at most `most` things."""
    rows = fields.get(name)
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise MessageInvalid(f"`{name}` must be a list of at least one item.")
    if len(rows) > most:
        raise MessageInvalid(f"A message carries at most {most} {name}, not {len(rows)}; send parts.")
    return rows


def refuse_heavy(rows: Sequence[Weighed], name: str, *, most: int) -> None:
    """Raise `MessageInvalid` for several rows of more than `most` bytes; a single one has limits of its own."""
    num_bytes = sum(row.num_bytes for row in rows)
    if len(rows) > 1 and num_bytes > most:
        raise MessageInvalid(f"A message carries at most {most} bytes of {name}, not {num_bytes}; send parts.")


def text(fields: Mapping[str, Any], name: str, *, most: int = MAX_TEXT) -> str:
    """Give a text that any database stores, of at most `most` characters."""
    value = fields.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise MessageInvalid(f"`{name}` must be text of 1 to {most} characters.")
    if "\x00" in value:
        raise MessageInvalid(f"`{name}` must not contain a NUL character.")
    # JSON can spell half a character, which no database stores.
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise MessageInvalid(f"`{name}` must not contain half a surrogate pair.")
    return value


def text_or_none(fields: Mapping[str, Any], name: str, *, most: int = MAX_TEXT) -> str | None:
    """Give a text, or None where there is none."""
    return None if fields.get(name) is None else text(fields, name, most=most)


def seconds(fields: Mapping[str, Any], name: str) -> float | None:
    """Give a number of seconds above 0, or None where there is none."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_SECONDS:
        raise MessageInvalid(f"`{name}` must be a number of seconds above 0.")
    return float(value)


def whole(fields: Mapping[str, Any], name: str, *, default: int | None, lowest: int, highest: int) -> int:
    """Give a whole number within bounds; without a default it must be there."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise MessageInvalid(f"`{name}` must be a whole number from {lowest} to {highest}.")
    return value


def flag(fields: Mapping[str, Any], name: str) -> bool:
    """Give true or false; false where there is none."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise MessageInvalid(f"`{name}` must be true or false.")
    return bool(value)


def match(fields: Mapping[str, Any], name: str, pattern: re.Pattern[str], *, default: Any) -> Any:
    """Give a text that the pattern matches whole."""
    value = fields.get(name, default)
    if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
        # Anything may be in the place of a name, as deep as it was read: only what is flat is quoted.
        shown = str(value)[:80] if isinstance(value, str | int | float) else type(value).__name__
        raise MessageInvalid(f"`{name}` is not a valid name: {shown!r}.")
    return default if value is None else value


def one_of(fields: Mapping[str, Any], name: str, allowed: Sequence[Choice], *, default: Choice) -> Choice:
    """Give one of the allowed texts."""
    value = fields.get(name, default)
    if value not in allowed:
        raise MessageInvalid(f"`{name}` must be one of {', '.join(allowed)}.")
    return allowed[allowed.index(value)]


def identifier(fields: Mapping[str, Any], name: str) -> str:
    """Give a UUID in its usual form."""
    try:
        return str(uuid.UUID(text(fields, name)))
    except ValueError:
        raise MessageInvalid(f"`{name}` must be a UUID.") from None


def decoded(value: Any) -> bytes:
    """Give the bytes that base64 text stands for."""
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise MessageInvalid("`bytes` must be base64 text.") from None


def encoded(image: bytes) -> str:
    """Give bytes as base64 text."""
    return base64.b64encode(image).decode("ascii")
