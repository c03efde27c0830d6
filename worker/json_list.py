"""Takes an opened text file that holds a JSON list. Gives its elements one by one, and on which line each begins.

Knows nothing of what the elements are. Reads ahead by an element at most, so that a file of any size takes no memory.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

#: Characters read at a time, at first.
CHUNK = 1 << 16
#: Characters of one element at most.
MAX_ELEMENT = 1 << 24
_SPACE = re.compile(r"\s*")


class JsonListInvalid(ValueError):
    """The text is no JSON list."""

    def __init__(self, line_number: int, what: str) -> None:
        super().__init__(f"Line {line_number}: {what}")


def elements(text: TextIO) -> Iterator[tuple[int, Any]]:
    """Read the list's elements with their line numbers. Raises `JsonListInvalid`."""
    ahead = _Ahead(text)
    ahead.take("[", or_else="the file must be a JSON list")
    while ahead.next_mark() != "]":
        yield ahead.line_number, ahead.element()
        if ahead.next_mark() != "]":
            ahead.take(",", or_else="a comma or the list's end is missing")


class _Ahead:
    """What has been read and not yet given: what is given is passed over, for to cut it off copies all the rest."""

    def __init__(self, text: TextIO) -> None:
        self.line_number = 1
        self._text = text
        self._buffer, self._start = "", 0

    def next_mark(self) -> str:
        """Give the next character that is no space, or "" at the end."""
        self._pass_spaces()
        while self._start == len(self._buffer) and (more := self._text.read(CHUNK)):
            self._buffer, self._start = more, 0
            self._pass_spaces()
        return self._buffer[self._start : self._start + 1]

    def take(self, mark: str, *, or_else: str) -> None:
        if self.next_mark() != mark:
            raise JsonListInvalid(self.line_number, f"{or_else}.")
        self._pass(self._start + 1)

    def element(self) -> Any:
        chunk = CHUNK
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._buffer, self._start)
            except (ValueError, RecursionError) as wrong:
                # Cut off, perhaps: try again with more, and with twice as much each time.
                more = self._text.read(chunk) if len(self._buffer) - self._start < MAX_ELEMENT else ""
                if not more:
                    raise JsonListInvalid(self.line_number, f"this is not JSON: {_reason(wrong)}.") from None
                self._buffer, self._start = self._buffer[self._start :] + more, 0
                chunk *= 2
            else:
                self._pass(end)
                return value

    def _pass_spaces(self) -> None:
        spaces = _SPACE.match(self._buffer, self._start)
        self._pass(spaces.end() if spaces else self._start)

    def _pass(self, end: int) -> None:
        self.line_number += self._buffer.count("\n", self._start, end)
        self._start = end


def _reason(wrong: Exception) -> str:
    return wrong.msg if isinstance(wrong, json.JSONDecodeError) else str(wrong)
