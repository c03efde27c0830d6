"""Takes nothing. Gives items/s of handing over a manifest of a million items, memory meanwhile, and ledger bytes.

Knows nothing of classifying: `python -m bench.million` runs a real Redis and a real intake worker, on both databases.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import ledgers, memory, rows, work
from db import session
from worker import manifests
from worker.client import Client, ClientError
from worker.messages import Receipt
from worker.settings import Settings
from worker.stack import Stack

#: Items/s of a submit that were promised.
PROMISED = 50_000
#: Megabytes that a process may grow by between a tenth of the items and all.
GROWTH_MB = 16
#: Kinds of lines that a manifest may have.
LINES: dict[str, Callable[[int], object]] = {
    "with keys": lambda position: {"reference": work.reference(position), "key": f"key-{position:09}"},
    "references alone": work.reference,
}


@dataclass(slots=True, kw_only=True)
class Run:
    """What was seen of one submit."""

    check_s: float
    submit_s: float = 0.0
    #: bytes per item that the ledger grew by
    ledger_bytes: float = 0.0
    #: process -> megabytes, at each look
    resident_mb: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def main() -> int:
    """Measure both databases and print the rows."""
    asked = _arguments()
    seen = [row for database in asked.databases for lines in asked.lines for row in _measure(database, lines, asked)]
    rows.show(f"A manifest of {asked.items:,} items", seen)
    if asked.json:
        rows.write(Path(asked.json), seen)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.million", description="Measure handing over a large manifest.")
    parser.add_argument("--items", type=int, default=1_000_000, help="lines of the manifest")
    parser.add_argument("--rounds", type=int, default=1, help="submits of it")
    parser.add_argument("--lines", nargs="+", choices=LINES, default=LINES)
    parser.add_argument("--databases", nargs="+", choices=ledgers.DATABASES, default=ledgers.DATABASES)
    parser.add_argument("--json", metavar="FILE", help="write the figures too")
    return parser.parse_args()


def _measure(database: str, lines: str, asked: argparse.Namespace) -> Iterator[rows.Row]:
    with tempfile.TemporaryDirectory(prefix="im-bench-") as folder, ledgers.running(database) as url:
        manifest = _written(Path(folder) / "manifest.jsonl", LINES[lines], asked.items)
        settings = Settings(home=Path(folder), database_url=url, models=(ledgers.MODEL,)).resolved()
        with Stack(settings=settings) as stack, Client(settings.broker_url) as client:
            stack.start_redis()
            stack.start("intake", "worker", "intake")
            _await_answer(client)
            runs = [_submit(stack, client, manifest, asked.items) for _ in range(asked.rounds)]
    what = f"{asked.items:,} items {lines}, {database}"
    yield rows.Row(
        work=f"submit {what}", against="the promise", ours=tuple(asked.items / run.submit_s for run in runs),
        theirs=(PROMISED,), unit="items/s", at_least=1.0,
        note=f"of it reading and checking first: {max(run.check_s for run in runs):.1f} s",
    )  # fmt: skip
    for process in runs[0].resident_mb:
        grown = tuple(_growth_mb(run.resident_mb[process]) for run in runs)
        yield rows.Row(
            work=f"memory of {process}, from a tenth to all of {what}", against="-", ours=grown, theirs=(), unit="MB",
            at_most=GROWTH_MB,
        )  # fmt: skip
    sizes = tuple(run.ledger_bytes for run in runs)
    yield rows.Row(work=f"ledger of {what}", against="-", ours=sizes, theirs=(), unit="bytes/item")


def _written(manifest: Path, line: Callable[[int], object], num_items: int) -> Path:
    with manifest.open("w") as out:
        out.writelines(json.dumps(line(position)) + "\n" for position in range(num_items))
    return manifest


def _await_answer(client: Client) -> None:
    for _ in range(60):
        try:
            client.status("00000000-0000-0000-0000-000000000000")
        except ClientError as away:
            if type(away).__name__ == "Refused":
                return
    raise RuntimeError("Intake did not start.")


def _submit(stack: Stack, client: Client, manifest: Path, num_items: int) -> Run:
    started_s = time.perf_counter()
    manifests.check(manifests.from_manifest(manifest))
    run = Run(check_s=time.perf_counter() - started_s)

    def look(num_sent: int) -> None:
        if num_sent >= num_items / 10 and num_sent % 50_000 == 0:
            for process, size in ({"client": memory.own()} | memory.of(stack)).items():
                run.resident_mb[process].append(size)

    with session.connected(stack.settings.database_url) as sessions:
        before = ledgers.size_bytes(sessions)
        started_s = time.perf_counter()
        receipt: Receipt = client.submit_manifest(manifest, model=ledgers.MODEL, on_sent=look)
        run.submit_s = time.perf_counter() - started_s
        assert (receipt.state, receipt.num_received) == ("accepted", num_items)
        run.ledger_bytes = (ledgers.size_bytes(sessions) - before) / num_items
    return run


def _growth_mb(looks: list[float]) -> float:
    return max(looks) - looks[0]


if __name__ == "__main__":
    sys.exit(main())
