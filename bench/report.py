"""Takes the JSON that benchmarks wrote. Gives the tables of docs/performance.md, between its two marks.

Knows nothing of how anything was measured. `python -m bench.report throughput.json latency.json ...`
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path

from bench import rows
from bench.rows import Row

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGINS, ENDS = "<!-- written by bench.report: begins -->", "<!-- written by bench.report: ends -->"
STAGES = ("fetch", "decode", "forward", "record")


def main() -> int:
    """Write the tables into the page."""
    parser = argparse.ArgumentParser(prog="bench.report", description="Write figures into docs/performance.md.")
    parser.add_argument("files", nargs="+", type=Path, help="what benchmarks wrote with --json")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    write_between(asked.page, BEGINS, ENDS, _tables(asked.files))
    return 0


def write_between(page: Path, begins: str, ends: str, lines: Iterable[str]) -> None:
    """Put lines in the place of what stands between two marks of a page."""
    before, _, rest = page.read_text().partition(begins)
    _, _, after = rest.partition(ends)
    written = "\n".join(lines)
    page.write_text(f"{before}{begins}\n{written}\n{ends}{after}")


def _tables(files: Sequence[Path]) -> Iterator[str]:
    read = [json.loads(file.read_text()) for file in files]
    first = read[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    yield f"\nMeasured {date.today().isoformat()}. {first['machine']}. {versions}.\n"  # noqa: DTZ011 - a day in a table
    yield "| work | beside | ours | theirs | seen | promised | |"
    yield "|---|---|---|---|---|---|---|"
    for file in files:
        yield from map(_line, rows.read(file))
    yield from _stages({network: spent for one in read for network, spent in one.get("stages", {}).items()})


def _line(row: Row) -> str:
    verdict = {True: "reached", False: "**missed**", None: ""}[row.is_reached]
    beside = f"{row.against} ({row.note})" if row.note else row.against
    ours, theirs = (_figures(rounds, row.unit) for rounds in (row.ours, row.theirs))
    return f"| {row.work} | {beside} | {ours} | {theirs} | {row.verdict} | {row.reach} | {verdict} |"


def _figures(rounds: Sequence[float], unit: str) -> str:
    if not rounds:
        return ""
    middle = f"{_short(statistics.median(rounds))} {unit}"
    return f"{middle} ({', '.join(map(_short, rounds))})" if len(rounds) > 1 else middle


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def _stages(spent: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    if not spent:
        return
    yield "\nMilliseconds per image and stage, medians over the rounds; threads share the cores, so they overlap.\n"
    yield "| network | images per batch | fetch | decode and resize | forward | record |"
    yield "|---|---|---|---|---|---|"
    for network, rounds in spent.items():
        middle = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        stages = " | ".join(f"{middle[f'{stage}_ms']:.2f}" for stage in STAGES)
        yield f"| {network} | {middle['items_per_batch']:.1f} | {stages} |"


if __name__ == "__main__":
    sys.exit(main())
