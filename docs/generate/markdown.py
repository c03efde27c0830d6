"""Takes words and rows. Gives Markdown; knows nothing of what they mean."""

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give a table, a line for each row, with an empty line behind it."""
    lines = [_line(head), _line(["---"] * len(head)), *(_line([_cell(text) for text in row]) for row in rows)]
    return "\n".join(lines) + "\n\n"


def code(text: str) -> str:
    """Give text as it is typed; nothing for no text."""
    return f"`{text}`" if text else ""


def fenced(text: str, kind: str) -> str:
    """Give a block of code, with an empty line behind it."""
    return f"```{kind}\n{text}\n```\n\n"


def sentence(text: str) -> str:
    """Give text on one line."""
    return " ".join(text.split())


def anchor(title: str) -> str:
    """Give the name by which a link finds a heading, as Markdown's `toc` makes it."""
    kept = re.sub(r"[^\w\s-]", "", title).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return sentence(text).replace("|", "\\|")
