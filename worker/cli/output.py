"""Takes values. Gives what a person or a program reads: tables, JSON, times and counts.

Knows nothing of where the values come from.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

#: What a state looks like.
STATE_STYLES = {
    "succeeded": "green", "partial": "yellow", "failed": "red", "cancelled": "dim", "expired": "dim",
    "running": "cyan", "accepted": "blue", "ready": "green", "busy": "cyan", "setup_failed": "red",
    "draining": "yellow", "drained": "dim",
}  # fmt: skip
#: Columns of numbers, which stand at the right.
NUMBERS = frozenset({
    "items", "done", "failed", "waiting", "parameters", "classes", "score", "shards", "train", "val", "test",
    "excluded", "images",
})  # fmt: skip


class Markup(str):
    """A cell whose [tags] are ours; in any other they are what somebody wrote, and stay as they are."""

    __slots__ = ()


def console() -> Console:
    """Give a console on stdout; wide where nobody watches, so that a pipe gets whole lines."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def errors() -> Console:
    """Give a console on stderr, where progress goes so that stdout stays clean."""
    return Console(stderr=True, highlight=False)


def as_json(value: Any) -> None:
    """Print a value as JSON: dataclasses as objects, times as epoch seconds."""
    print(json.dumps(value, default=_plain, ensure_ascii=False))


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while something of known length goes on; where nobody watches, nothing."""
    with Progress(console=errors(), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda completed: bar.update(task, completed=completed)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, or a line that says there is nothing."""
    drawn = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        right = column in NUMBERS
        drawn.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(_cell(value) for value in row))
    if drawn.row_count:
        console().print(drawn)
    else:
        console().print(f"[bold]{title}[/bold]: none")


def plain(text: object) -> str:
    """Give what somebody else wrote for printing among [tags]."""
    return escape(str(text))


def apart(references: Sequence[str]) -> tuple[str, list[str]]:
    """Part references into the folder that all lie in, with its slash, and what differs; a lone one keeps its name."""
    steps = zip(*(reference.split("/")[:-1] for reference in references), strict=False)
    shared = [step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps)]
    # A scheme alone is no folder.
    folder = "/".join([*shared, ""]) if any(shared[1:]) else ""
    return folder, [reference.removeprefix(folder) for reference in references]


def state(name: str) -> Markup:
    """Colour a state."""
    style = STATE_STYLES.get(name)
    return Markup(f"[{style}]{name}[/{style}]" if style else name)


def when(at_s: float | None) -> str:
    """Give a moment in local time, to the second."""
    return "" if at_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def took(seconds: float | None) -> str:
    """Give a duration as a person would say it."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def without_password(text: str) -> str:
    """Hide the password of a URL, before its host or among its options."""
    text = re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", text)
    return re.sub(r"(password=)[^&]*", r"\1***", text)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Markup):
        return value
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else plain(value)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, UUID | Path):
        return str(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
