"""Outcomes leave as JSONL, CSV or Parquet: the same rows, whole or not at all."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow import parquet

from worker import export
from worker.manifests import ManifestInvalid
from worker.messages import ItemError, Result

RESULTS = [
    Result(
        position=0,
        key='Käse, "the" first',
        reference="file:///a%20b.jpg",
        label="cat",
        score=0.75,
        top_k=[["cat", 0.75], ["dog", 0.25]],
        version="cats:3",
    ),
    Result(
        position=1,
        key=None,
        reference="s3://b/2.jpg",
        version="cats:3",
        error=ItemError(stage="decode", kind="truncated", message="The image file is cut off\nbefore its end."),
    ),
]
ROWS = [
    (
        0, 'Käse, "the" first', "file:///a%20b.jpg", "cat", 0.75, "cats:3", None, None, None,
        '[["cat", 0.75], ["dog", 0.25]]',
    ),
    (
        1, None, "s3://b/2.jpg", None, None, "cats:3", "decode", "truncated",
        "The image file is cut off\nbefore its end.", "[]",
    ),
]  # fmt: skip


def from_jsonl(file: Path) -> list[tuple[object, ...]]:
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        wire = json.loads(line)
        error = wire.pop("error", {})
        told = {f"error_{name}": error.get(name) for name in ("stage", "kind", "message")}
        told["top_k"] = json.dumps(wire.pop("top_k"), ensure_ascii=False)
        rows.append(tuple((wire | told)[name] for name in export.COLUMNS))
    return rows


def from_csv(file: Path) -> list[tuple[object, ...]]:
    with file.open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    assert tuple(header) == export.COLUMNS
    typed = {"position": int, "score": float}
    return [
        tuple(typed.get(name, str)(cell) if cell else None for name, cell in zip(header, row, strict=True))
        for row in rows
    ]


def from_parquet(file: Path) -> list[tuple[object, ...]]:
    table = parquet.read_table(file)
    assert tuple(table.column_names) == export.COLUMNS
    return [tuple(row.values()) for row in table.to_pylist()]


READERS = {"jsonl": from_jsonl, "csv": from_csv, "parquet": from_parquet}


@pytest.mark.parametrize("name", READERS)
def test_every_format_holds_the_same_rows(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"out.{name.upper()}"
    assert export.write(iter(RESULTS), file, None) == 2
    assert READERS[name](file) == ROWS
    assert [one.name for one in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("name", READERS)
def test_a_job_without_outcomes_gives_a_file_without_rows(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"out.{name}"
    assert export.write(iter(()), file, None) == 0
    assert READERS[name](file) == []


@pytest.mark.parametrize("num_rows", [export.ROW_GROUP, export.ROW_GROUP + 1])
def test_parquet_is_written_in_groups(tmp_path: Path, num_rows: int) -> None:
    file = tmp_path / "out.parquet"
    results = (Result(position=n, key=None, reference="r") for n in range(num_rows))
    assert export.write(results, file, None) == num_rows
    opened = parquet.ParquetFile(file)
    assert opened.metadata.num_rows == num_rows
    assert opened.metadata.num_row_groups == -(-num_rows // export.ROW_GROUP)
    opened.close()


class PowerCut(Exception):
    """What happens in the middle."""


def half() -> Iterator[Result]:
    yield RESULTS[0]
    raise PowerCut


@pytest.mark.parametrize("name", READERS)
def test_an_export_that_breaks_leaves_the_file_that_was_there(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"out.{name}"
    file.write_text("yesterday's")
    with pytest.raises(PowerCut):
        export.write(half(), file, None)
    assert file.read_text() == "yesterday's"
    assert [one.name for one in tmp_path.iterdir()] == [file.name]


def test_the_format_asked_for_beats_the_ending(tmp_path: Path) -> None:
    file = tmp_path / "out.txt"
    export.write(iter(RESULTS), file, "csv")
    assert from_csv(file) == ROWS


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (lambda folder: export.write(RESULTS, folder / "out.xlsx", None), "'out.xlsx' does not end in .jsonl, .csv or"),
        (lambda folder: export.write(RESULTS, folder / "out", None), "'out' does not end in .jsonl, .csv or .parquet;"),
        (
            lambda folder: export.write(RESULTS, folder / "gone/out.csv", None),
            "{folder}/gone/out.csv cannot be written",
        ),
        (lambda folder: export.write(RESULTS, folder / "d.csv", None), "{folder}/d.csv cannot be written: Is a dir"),
    ],
    ids=["unknown ending", "no ending", "no folder", "a folder"],
)
def test_a_file_that_cannot_be_written_is_refused(
    tmp_path: Path, attempt: Callable[[Path], object], sentence: str
) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(ManifestInvalid) as refused:
        attempt(tmp_path)
    assert str(refused.value).startswith(sentence.format(folder=tmp_path))
    assert [one.name for one in tmp_path.iterdir()] == ["d.csv"]
