"""Takes the code. Gives each page of the reference by its file's name, and writes those that are stale.

Knows nothing of what is on a page.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from docs.generate import command_line, errors, http, messages, playbook, settings, tables

FOLDER = Path(__file__).parents[1] / "reference"
#: At the top of each page, for whoever opens the file.
HEAD = "<!-- written by `python -m docs.generate` from the code: change the code, then run it -->\n\n"
#: file -> what writes it
WRITERS: dict[str, Callable[[], str]] = {
    "command-line.md": command_line.page,
    "settings.md": settings.page,
    "playbook.md": playbook.page,
    "messages.md": messages.page,
    "http.md": http.page,
    "errors.md": errors.page,
    "tables.md": tables.page,
}


def written() -> dict[str, str]:
    """Give every page as it should be."""
    return {name: HEAD + write() for name, write in WRITERS.items()}


def stale() -> list[str]:
    """Name the pages that are not as they should be, and those that nothing writes any more."""
    return _stale(written())


def refresh() -> list[str]:
    """Write what is stale and remove what nothing writes; gives the names."""
    wanted = written()
    changed = _stale(wanted)
    for name in changed:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    return changed


def _stale(wanted: Mapping[str, str]) -> list[str]:
    found = {file.name for file in FOLDER.glob("*.md")}
    return sorted(name for name in {*wanted, *found} if _text(name) != wanted.get(name))


def _text(name: str) -> str | None:
    file = FOLDER / name
    return file.read_text(encoding="utf-8") if file.exists() else None
