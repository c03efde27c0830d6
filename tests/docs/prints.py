"""What a page shows of a command's output, beside what was printed.

Takes both. Gives the first line of the page that was not printed. Knows nothing of which command it was.
"""

import re
from collections.abc import Sequence

#: `...` on a line of its own: any lines; at the end or in the middle of one: any text.
LEFT_OUT = "..."
#: What differs from one time to the next: numbers with a point, moments, identifiers.
CHANGING = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), r"[0-9a-f-]{36}"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"),
    (re.compile(r"\d+\\\.\d+"), r"\d+\.\d+"),
)


def missing(shown: str, printed: str) -> str | None:
    """Give the first shown line that does not follow, in order, in what was printed; None if all do."""
    lines = [_squeezed(line) for line in printed.splitlines() if line.strip()]
    at = 0
    for line in filter(None, map(_squeezed, shown.splitlines())):
        if line == LEFT_OUT:
            continue
        found = _find(_pattern(line), lines[at:])
        if found is None:
            return line
        at += found + 1
    return None


def _squeezed(line: str) -> str:
    return " ".join(line.split())


def _find(pattern: re.Pattern[str], lines: Sequence[str]) -> int | None:
    return next((number for number, line in enumerate(lines) if pattern.fullmatch(line)), None)


def _pattern(line: str) -> re.Pattern[str]:
    spelled = re.escape(line).replace(re.escape(LEFT_OUT), ".*").replace(r"\ ", " ").replace(r"\-", "-")
    for changing, anything in CHANGING:
        spelled = changing.sub(lambda _, anything=anything: anything, spelled)
    return re.compile(spelled.replace(" .*", "(?: .*)?"))
