"""The table is what the rows say, and nothing beside its marks is touched."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.chaos import report
from tests.chaos.rows import Row


def test_the_table_holds_the_last_run_of_each_row_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, kept = tmp_path / "page.md", tmp_path / "rows.jsonl"
    page.write_text(f"before\n{report.BEGINS}\nold\n{report.ENDS}\nafter\n")
    seen = [
        Row(number="soak", fault="all", database="postgresql", submitted=2000, recorded=2000),
        Row(number="10", fault="ten", database="sqlite", submitted=5, recorded=4),
        Row(number="2", fault="two", database="sqlite", submitted=7, recorded=7, recovery_s=(1.0, 9.0, 2.0)),
        Row(number="10", fault="ten", database="sqlite", submitted=5, recorded=5, executions=1.25, note="well"),
    ]
    kept.write_text("".join(json.dumps({**asdict(row), "lost": row.lost}) + "\n" for row in seen))
    monkeypatch.setattr("sys.argv", ["report", str(kept), "--page", str(page)])
    assert report.main() == 0
    before, *lines, after = page.read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert (before, after) == ("before", "after")
    assert rows == [
        "| 2 | two | sqlite | 7 | 7 | 0 | 0 | 0 |  | 2.0 s, p99 9.0 s |  |",
        "| 10 | ten | sqlite | 5 | 5 | 0 | 0 | 0 | 1.25 |  | well |",
        "| soak | all | postgresql | 2,000 | 2,000 | 0 | 0 | 0 |  |  |  |",
    ]


def test_the_page_has_its_marks() -> None:
    page = report.PAGE.read_text()
    assert page.index(report.BEGINS) < page.index(report.ENDS)
