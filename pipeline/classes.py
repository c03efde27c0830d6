"""Takes a file that lists class names.

Gives them in the order of the network's outputs, each name once.
Knows nothing of networks.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import ClassesInvalid

#: columns of a table that may hold the name, in order of preference
NAME_COLUMNS = ("name", "label", "class")
#: columns that tell two classes of the same name apart, in order of preference
HINT_COLUMNS = ("wnid", "id", "index")


def read_classes(file: Path) -> tuple[str, ...]:
    """Read .txt (one per line), .json (a list), .csv or .tsv (a `name` column, perhaps an `index`).

    Names that a table has twice get its `wnid` or index appended. Raise ClassesInvalid.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClassesInvalid(f"The classes file {file} cannot be read as text: {error}.") from error
    if file.suffix in (".csv", ".tsv"):
        return check_classes(_from_table(text, "\t" if file.suffix == ".tsv" else ","))
    if file.suffix == ".json":
        return check_classes(_from_json(text))
    return check_classes([line.strip() for line in text.splitlines() if line.strip()])


def check_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Give the names back if there are any, none is empty and none occurs twice; raise ClassesInvalid."""
    if not names:
        raise ClassesInvalid("There are no classes; name one for each output of the network.")
    if not all(_is_storable(name) for name in names):
        raise ClassesInvalid("A class's name holds a character that cannot be stored: NUL, or half a surrogate pair.")
    if not all(name.strip() for name in names):
        raise ClassesInvalid("A class has an empty name; name one for each output of the network.")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ClassesInvalid(f"Classes must be unique, but these are repeated: {', '.join(repeated[:5])}.")
    return tuple(names)


def unique_names(names: Sequence[str], hints: Sequence[object]) -> tuple[str, ...]:
    """Append its hint to each name that occurs more than once: ImageNet has two cranes, bird and machine."""
    counts = Counter(names)
    return tuple(f"{name} ({hint})" if counts[name] > 1 else name for name, hint in zip(names, hints, strict=True))


def _is_storable(name: str) -> bool:
    return "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _from_json(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClassesInvalid(f"The classes file is not JSON: {error}.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ClassesInvalid("The classes file must hold a JSON list of names.")
    return names


def _from_table(text: str, delimiter: str) -> tuple[str, ...]:
    try:
        rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    except csv.Error as error:
        raise ClassesInvalid(f"The classes table cannot be read: {error}.") from error
    columns = set(rows[0]) if rows else set()
    key = next((column for column in NAME_COLUMNS if column in columns), None)
    if key is None:
        raise ClassesInvalid("The classes table needs a header with a column called name, label or class.")
    if "index" in columns:
        rows = _ordered(rows)
    hint = next((column for column in HINT_COLUMNS if column in columns), None)
    names = [(row[key] or "").strip() for row in rows]
    return unique_names(names, [row[hint] for row in rows]) if hint else tuple(names)


def _ordered(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    by_index: Mapping[str, dict[str, str]] = {(row["index"] or "").strip(): row for row in rows}
    missing = [index for index in range(len(rows)) if str(index) not in by_index]
    if missing:
        raise ClassesInvalid(f"The index column must count from 0 without gaps; {missing[0]} is missing.")
    return [by_index[str(index)] for index in range(len(rows))]
