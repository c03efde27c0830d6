"""Takes outcomes. Gives JSONL, CSV or Parquet, a line or row per item. Knows nothing of where outcomes are kept."""

import csv
import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import IO, Any

from worker.manifests import ManifestInvalid
from worker.messages import Result

FORMATS = ("jsonl", "csv", "parquet")
COLUMNS = (
    "position", "key", "reference", "label", "score", "version", "error_stage", "error_kind", "error_message", "top_k",
)  # fmt: skip
#: Rows written to Parquet at once.
ROW_GROUP = 10_000


class FormatUnknown(ManifestInvalid):
    """The file's ending names no known format; give --format jsonl, csv or parquet."""


def format_of(file: Path, asked: str | None) -> str:
    """Choose a format: as asked, else by the file's ending. Raises `FormatUnknown`."""
    chosen = asked or file.suffix.removeprefix(".").lower()
    if chosen not in FORMATS:
        raise FormatUnknown(f"{file.name!r} does not end in .jsonl, .csv or .parquet; the ending chooses the format.")
    return chosen


def write(results: Iterable[Result], file: Path, asked: str | None) -> int:
    """Write outcomes to a file under a temporary name, then rename it. Gives their number, in constant memory."""
    write_to = {"jsonl": _as_text(write_jsonl), "csv": _as_text(write_csv), "parquet": _write_parquet}[
        format_of(file, asked)
    ]
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        count = write_to(results, partial)
        partial.replace(file)
    except OSError as wrong:
        raise ManifestInvalid(f"{file} cannot be written: {wrong.strerror}.") from None
    finally:
        partial.unlink(missing_ok=True)
    return count


def write_jsonl(results: Iterable[Result], out: IO[str]) -> int:
    """Write one JSON object per line; an item without error has no `error`."""
    count = 0
    for count, result in enumerate(results, start=1):  # noqa: B007 - the last count is the answer
        wire = asdict(result)
        if result.error is None:
            del wire["error"]
        out.write(json.dumps(wire, ensure_ascii=False) + "\n")
    return count


def write_csv(results: Iterable[Result], out: IO[str]) -> int:
    """Write one row per item under a header; `top_k` is JSON."""
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)
    count = 0
    for count, result in enumerate(results, start=1):  # noqa: B007 - the last count is the answer
        rows.writerow(_row(result))
    return count


def _row(result: Result) -> list[Any]:
    error = result.error
    known = [result.position, result.key, result.reference, result.label, result.score, result.version]
    return [
        *known,
        *((error.stage, error.kind, error.message) if error else (None, None, None)),
        json.dumps(result.top_k, ensure_ascii=False),
    ]


def _as_text(write_to: Callable[[Iterable[Result], IO[str]], int]) -> Callable[[Iterable[Result], Path], int]:
    def write_file(results: Iterable[Result], file: Path) -> int:
        with file.open("w", encoding="utf-8", newline="") as out:
            return write_to(results, out)

    return write_file


def _write_parquet(results: Iterable[Result], file: Path) -> int:
    """Write row groups as they come. pyarrow is an extra, wanted by this format alone, so it is imported by name."""
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise FormatUnknown("Parquet needs pyarrow: install the `parquet` extra, or choose .jsonl or .csv.") from None
    types = [arrow.int64(), *[arrow.string()] * 3, arrow.float64(), *[arrow.string()] * 5]
    schema = arrow.schema(list(zip(COLUMNS, types, strict=True)))
    count = 0
    with parquet.ParquetWriter(file, schema) as out:
        for rows in _groups(map(_row, results)):
            count += len(rows)
            columns = [list(column) for column in zip(*rows, strict=True)]
            out.write_table(
                arrow.Table.from_arrays([arrow.array(c, t) for c, t in zip(columns, types, strict=True)], schema=schema)
            )
    return count


def _groups(rows: Iterator[list[Any]]) -> Iterator[list[list[Any]]]:
    while group := list(islice(rows, ROW_GROUP)):
        yield group
