"""A figure is shown with its promise and whether it was kept, on the page and on the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import report, rows
from bench.rows import Row


def row(**fields: object) -> Row:
    usual = {"work": "w", "against": "a", "ours": (90.0, 100.0, 95.0), "theirs": (100.0,), "unit": "images/s"}
    return Row(**(usual | fields))


@pytest.mark.parametrize(
    ("promise", "is_reached", "reach", "verdict"),
    [
        ({"at_least": 0.95}, True, "at least 0.95 x", "0.95 x"),
        ({"at_least": 0.96}, False, "at least 0.96 x", "0.95 x"),
        ({"adds_at_most": -5, "unit": "ms"}, True, "adds at most -5 ms", "adds -5 ms"),
        ({"adds_at_most": -6, "unit": "ms"}, False, "adds at most -6 ms", "adds -5 ms"),
        ({"at_most": 95, "theirs": (), "unit": "ms"}, True, "at most 95 ms", ""),
        ({"at_most": 94, "theirs": (), "unit": "ms"}, False, "at most 94 ms", ""),
        ({}, None, "", "0.95 x"),
    ],
)
def test_a_promise_is_kept_by_the_median(
    promise: dict[str, object], is_reached: bool | None, reach: str, verdict: str
) -> None:
    one = row(**promise)
    assert (one.is_reached, one.reach, one.verdict) == (is_reached, reach, verdict)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows.write(tmp_path / "one.json", [row(at_least=0.5, note="n")])
    assert rows.read(tmp_path / "one.json") == [row(at_least=0.5, note="n")]


def test_the_page_keeps_what_stands_around_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, file = tmp_path / "page.md", tmp_path / "one.json"
    page.write_text(f"before\n{report.BEGINS}\nold\n{report.ENDS}\nafter\n")
    spent = {"items_per_batch": 15.9, "fetch_ms": 0.1, "decode_ms": 2.0, "forward_ms": 3.0, "record_ms": 0.2}
    rows.write(file, [row(at_least=0.96)], stages={"resnet18": [spent]})
    monkeypatch.setattr("sys.argv", ["report", str(file), "--page", str(page)])
    for _ in range(2):
        assert report.main() == 0
        written = page.read_text()
        assert written.startswith(f"before\n{report.BEGINS}\n")
        assert written.endswith(f"{report.ENDS}\nafter\n")
        assert "| w | a | 95 images/s (90, 100, 95) | 100 images/s | 0.95 x | at least 0.96 x | **missed** |" in written
        assert "| resnet18 | 15.9 | 0.10 | 2.00 | 3.00 | 0.20 |" in written
        assert "old" not in written
