"""Takes what a user names: references, globs, folders, manifests. Gives items, checked before any is sent.

Knows nothing of brokers or images: standard library only, one pass in constant memory.
"""

import csv
import glob
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from .messages import MAX_JOB_ITEMS, MAX_TEXT, Item, MessageInvalid

#: File name endings that a folder or a glob is searched for.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
#: Characters of one line at most: several times those of the largest image that travels in a message.
MAX_LINE = 1 << 21

#: A pass over the items; called again for a second pass.
Source = Callable[[], Iterator[Item]]


class ManifestInvalid(ValueError):
    """A manifest, a glob or a folder does not give what was asked of it; nothing was sent."""


def from_references(texts: Iterable[str]) -> Source:
    """Expand references, paths, globs and folders, in the order given.

    Raises `ManifestInvalid` for a glob without a match and for a folder without images.
    """
    expanded = [item for text in texts for item in _expand(text)]
    return lambda: iter(expanded)


def from_manifest(file: Path) -> Source:
    """Read a manifest lazily: `.csv` with a header, anything else as JSONL.

    A line is a reference, or has `reference` and perhaps `key`; relative references start at the manifest's folder.
    Raises `ManifestInvalid` with the line number.
    """
    if not os.path.isfile(file):  # noqa: PTH113 - Path.is_file raises for names that are too long
        raise ManifestInvalid(f"There is no manifest {str(file)!r}.")
    read = _csv_lines if file.suffix.lower() == ".csv" else jsonl_lines
    return lambda: _items(file, read)


def check(source: Source) -> int:
    """Read every item once and count them.

    Raises `ManifestInvalid` for an empty source, a repeated key or a reference too long to send.

    Keys are compared in a temporary database on disk, so a million of them take no memory.
    """
    num_items, last = 0, Item()

    def keys() -> Iterator[tuple[str]]:
        nonlocal num_items, last
        for num_items, last in enumerate(source(), start=1):
            if len(last.reference) > MAX_TEXT:
                raise ManifestInvalid(f"Item {num_items}: its reference has more than {MAX_TEXT} characters.")
            if last.key is not None:
                yield (last.key,)

    with closing(sqlite3.connect("")) as seen:
        seen.execute("PRAGMA journal_mode=OFF")
        seen.execute("CREATE TABLE keys (key TEXT PRIMARY KEY) WITHOUT ROWID")
        try:
            # In one statement, which takes the keys one by one: the last item is the one it stops at.
            seen.executemany("INSERT INTO keys VALUES (?)", keys())
        except sqlite3.IntegrityError:
            raise ManifestInvalid(
                f"Item {num_items}: the key {last.key!r} was given before; keys must be unique."
            ) from None
    if not num_items:
        raise ManifestInvalid("There is nothing to classify: no items were given.")
    if num_items > MAX_JOB_ITEMS:
        raise ManifestInvalid(f"A job holds at most {MAX_JOB_ITEMS} items, not {num_items}; submit several jobs.")
    return num_items


def as_reference(text: str, base: Path | str) -> str:
    """Turn a path into a `file://` reference; leave a reference with a scheme as it is."""
    if "://" in text:
        return text
    # As bytes, for a file's name need not be UTF-8; an absolute `text` leaves `base` out.
    return "file://" + quote(os.fsencode(os.path.join(base, text)))  # noqa: PTH118 - a Path keeps every name in memory


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what is wrong with a file as such into `ManifestInvalid`."""
    try:
        yield
    except UnicodeDecodeError:
        raise ManifestInvalid(f"{file.name} is not UTF-8 text.") from None
    except OSError as wrong:
        raise ManifestInvalid(f"{file.name} cannot be read: {wrong.strerror}.") from None


def jsonl_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Read the values of a JSONL file with their line numbers; blank lines are passed over.

    Raises `ManifestInvalid` with the line number.
    """
    with reading(file), file.open(encoding="utf-8-sig") as lines:
        for line_number, line in enumerate(_bounded(lines), start=1):
            if not line.strip():
                continue
            try:
                yield line_number, json.loads(line)
            except json.JSONDecodeError as wrong:
                raise ManifestInvalid(f"Line {line_number} is not JSON: {wrong.msg}, column {wrong.colno}.") from None
            except (ValueError, RecursionError) as wrong:
                raise ManifestInvalid(f"Line {line_number} is not JSON: {wrong}.") from None


def _bounded(lines: TextIO) -> Iterator[str]:
    """Read lines, however many, in constant memory. Raises `ManifestInvalid` for one too long."""
    line_number = 0
    while line := lines.readline(MAX_LINE + 1):
        line_number += 1
        if len(line) > MAX_LINE:
            raise ManifestInvalid(f"Line {line_number} has more than {MAX_LINE} characters.")
        yield line


def csv_lines(file: Path, needs: Sequence[str], may_have: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Read the rows of a CSV file with their line numbers: the columns that are asked for, without empty fields.

    Raises `ManifestInvalid` with the line number.
    """
    with reading(file), file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(_bounded(lines), strict=True)
        try:
            if not set(needs) <= set(rows.fieldnames or ()):
                raise ManifestInvalid(f"Line 1: a CSV manifest needs a header with {_named(needs, may_have)}.")
            for row in rows:
                yield rows.line_num, _csv_row(row, rows.line_num, (*needs, *may_have))
        except csv.Error as wrong:
            # The row that could not be read begins behind the last one that could.
            raise ManifestInvalid(f"Line {rows.line_num + 1} is not CSV: {wrong}.") from None


def _expand(text: str) -> Iterator[Item]:
    here = Path.cwd()
    if "://" in text:
        return iter([Item(reference=text)])
    if not _may_be_a_name(text):
        raise ManifestInvalid(f"No file can have such a name: {text[:200]!r}.")
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises for users it does not know
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where it may not look, and for names too long
        return _found(
            sorted(file for file in path.rglob("*") if _is_image(file)), f"The folder {text!r} has no images."
        )
    if any(mark in text for mark in "*?[") and not os.path.lexists(path):
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        # A set, for `**` matches a folder as well as what lies in it.
        files = {file for match in matches for file in (match.rglob("*") if match.is_dir() else (match,))}
        return _found(sorted(file for file in files if _is_image(file)), f"Nothing matches {text!r}.")
    return iter([Item(reference=as_reference(str(path), here))])


def _may_be_a_name(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half a character
        return False


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(file)  # noqa: PTH113 - as above


def _found(files: list[Path], otherwise: str) -> Iterator[Item]:
    if not files:
        raise ManifestInvalid(otherwise)
    here = Path.cwd()
    return (Item(reference=as_reference(str(file), here)) for file in files)


def _items(file: Path, read: Callable[[Path], Iterator[tuple[int, Any]]]) -> Iterator[Item]:
    base = file.resolve().parent
    for line_number, wire in read(file):
        yield _item(wire, base, line_number)


def _item(wire: Any, base: Path, line_number: int) -> Item:
    try:
        item = Item.parse(wire)
    except MessageInvalid as wrong:
        raise ManifestInvalid(f"Line {line_number}: {wrong}") from None
    if item.inline is not None or "://" in item.reference:
        return item
    return Item(reference=as_reference(item.reference, base), key=item.key)


def _csv_lines(file: Path) -> Iterator[tuple[int, Any]]:
    return csv_lines(file, ("reference",), ("key",))


def _csv_row(row: dict[Any, Any], line_number: int, columns: Sequence[str]) -> dict[str, str]:
    if None in row or None in row.values():
        raise ManifestInvalid(f"Line {line_number} does not have as many fields as the header.")
    return {name: row[name] for name in columns if row.get(name)}


def _named(needs: Sequence[str], may_have: Sequence[str]) -> str:
    needed, perhaps = (" and ".join(f"`{name}`" for name in names) for names in (needs, may_have))
    return f"{needed}, and perhaps {perhaps}"
