"""Takes what a user names: references, globs, folders, manifests. Gives items, checked before any is sent.

Knows nothing of brokers or images: standard library only, one pass in constant memory.
"""

import csv
import glob
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from .messages import MAX_JOB_ITEMS, Item, MessageInvalid

#: File name endings that a folder or a glob is searched for.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})

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
    if not file.is_file():
        raise ManifestInvalid(f"There is no manifest {str(file)!r}.")
    read = _csv_lines if file.suffix.lower() == ".csv" else _jsonl_lines
    return lambda: _items(file, read)


def check(source: Source) -> int:
    """Read every item once and count them. Raises `ManifestInvalid` for an empty source or a repeated key.

    Keys are compared in a temporary database on disk, so a million of them take no memory.
    """
    num_items = 0
    seen = sqlite3.connect("")
    try:
        seen.execute("PRAGMA journal_mode=OFF")
        seen.execute("CREATE TABLE keys (key TEXT PRIMARY KEY) WITHOUT ROWID")
        for item in source():
            num_items += 1
            if item.key is not None:
                seen.execute("INSERT INTO keys VALUES (?)", (item.key,))
    except sqlite3.IntegrityError:
        raise ManifestInvalid(
            f"Item {num_items}: the key {item.key!r} was given before; keys must be unique."
        ) from None
    finally:
        seen.close()
    if not num_items:
        raise ManifestInvalid("There is nothing to classify: no items were given.")
    if num_items > MAX_JOB_ITEMS:
        raise ManifestInvalid(f"A job holds at most {MAX_JOB_ITEMS} items, not {num_items}; submit several jobs.")
    return num_items


def as_reference(text: str, base: Path) -> str:
    """Turn a path into a `file://` reference; leave a reference with a scheme as it is."""
    if len(urlsplit(text).scheme) > 1 and "://" in text:
        return text
    path = Path(text)
    return "file://" + quote(str(path if path.is_absolute() else base / path))


def _expand(text: str) -> Iterator[Item]:
    here = Path.cwd()
    if "://" in text:
        return iter([Item(reference=text)])
    path = Path(text).expanduser()
    if path.is_dir():
        return _found(
            sorted(file for file in path.rglob("*") if _is_image(file)), f"The folder {text!r} has no images."
        )
    if any(mark in text for mark in "*?[") and not path.exists():
        matches = sorted(
            Path(match)
            for match in glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        )
        files = chain.from_iterable(sorted(m.rglob("*")) if m.is_dir() else [m] for m in matches)
        return _found([file for file in files if _is_image(file)], f"Nothing matches {text!r}.")
    return iter([Item(reference=as_reference(str(path), here))])


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()


def _found(files: list[Path], otherwise: str) -> Iterator[Item]:
    if not files:
        raise ManifestInvalid(otherwise)
    here = Path.cwd()
    return (Item(reference=as_reference(str(file), here)) for file in files)


def _items(file: Path, read: Callable[[Path], Iterator[tuple[int, Any]]]) -> Iterator[Item]:
    base = file.resolve().parent
    try:
        for line_number, wire in read(file):
            yield _item(wire, base, line_number)
    except UnicodeDecodeError:
        raise ManifestInvalid(f"{file.name} is not UTF-8 text.") from None


def _item(wire: Any, base: Path, line_number: int) -> Item:
    try:
        item = Item.parse(wire)
    except MessageInvalid as wrong:
        raise ManifestInvalid(f"Line {line_number}: {wrong}") from None
    if item.inline is not None:
        return item
    return Item(reference=as_reference(item.reference, base), key=item.key)


def _jsonl_lines(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open(encoding="utf-8-sig") as lines:
        for line_number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield line_number, json.loads(line)
            except ValueError as wrong:
                raise ManifestInvalid(f"Line {line_number} is not JSON: {wrong}.") from None


def _csv_lines(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)
        if "reference" not in (rows.fieldnames or ()):
            raise ManifestInvalid("Line 1: a CSV manifest needs a header with `reference`, and perhaps `key`.")
        try:
            for row in rows:
                yield rows.line_num, _csv_row(row, rows.line_num)
        except csv.Error as wrong:
            raise ManifestInvalid(f"Line {rows.line_num} is not CSV: {wrong}.") from None


def _csv_row(row: dict[Any, Any], line_number: int) -> dict[str, str]:
    if None in row or None in row.values():
        raise ManifestInvalid(f"Line {line_number} does not have as many fields as the header.")
    return {name: row[name] for name in ("reference", "key") if row.get(name)}
