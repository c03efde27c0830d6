"""Takes nothing. Gives items/s of the whole queue beside the same network in a bare loop, in one run on this machine.

Knows nothing of the tests. Prints tables, and JSON with --json FILE; `make bench` runs it.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench import bare, memory, stages
from db import migrate
from pipeline import backbones, checkpoints, digits
from worker import runtime, versions
from worker.cli import output, stack
from worker.client import Client
from worker.settings import Settings

#: Name of the benchmark's model.
MODEL = "tiny"
#: Different files that the items refer to, over and over.
NUM_FILES = 100


def main() -> int:
    """Run every row and print it."""
    asked = _arguments()
    say = output.errors().print
    with tempfile.TemporaryDirectory(prefix="im-bench-") as folder:
        home = Path(folder)
        settings = Settings(home=home, models=(MODEL,), allowed_roots=(str(home / "images"),)).resolved()
        references = [digit.file.as_uri() for digit in digits.write_images(home / "images")[:NUM_FILES]]
        _make_model(settings)
        many = [references[number % NUM_FILES] for number in range(asked.items)]
        say(f"Bare loop over {asked.items} images ...")
        loops = [bare.images_per_s(settings, MODEL, many) for _ in range(asked.rounds)]
        with stack.running(settings, say=say) as running, Client(settings.broker_url) as client:
            client.wait(client.submit(references, model=MODEL).job_id)  # everything is loaded and warm
            log = running.logs / "classify.log"
            before = memory.of(running)
            rows = []
            for _ in range(asked.rounds):
                rows.append(_measure("one job", log, lambda: _one_job(client, many)))
                rows.append(_measure("jobs of one", log, lambda: _jobs_of_one(client, many[: asked.jobs])))
            after = memory.of(running)
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "shard_size": settings.shard_size,
        "batch_size": settings.batch_size,
        "bare_loop_images_per_s": loops,
        "rows": rows,
        "memory_mb": {name: [before[name], after.get(name)] for name in before},
    }
    report["client_import_s"] = bare.client_import_s(asked.rounds)
    _print(report)
    if asked.json:
        Path(asked.json).write_text(json.dumps(report, indent=2))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure the queue beside a bare loop.")
    parser.add_argument("--items", type=int, default=10_000, help="images in the one large job")
    parser.add_argument("--jobs", type=int, default=1_000, help="jobs of one image")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; the median is what to quote")
    parser.add_argument("--json", metavar="FILE", help="write the figures too")
    return parser.parse_args()


def _make_model(settings: Settings) -> None:
    migrate.upgrade(settings.database_url)
    network = digits.small_network(10).eval()
    preprocess = backbones.preprocess_for(digits.ARCH)
    draft = checkpoints.Draft(arch=digits.ARCH, classes=tuple("0123456789"), preprocess=preprocess)
    with runtime.ledger(settings) as sessions:
        version = versions.register(sessions, settings.store, MODEL, network, draft, source="demo")
        versions.promote(sessions, version.name, reason="benchmark")


def _measure(what: str, log: Path, work: Callable[[], int]) -> dict[str, object]:
    mark = log.stat().st_size
    started_s = time.perf_counter()
    num_items = work()
    took_s = time.perf_counter() - started_s
    spent = stages.since(log, mark)
    return {"what": what, "items": num_items, "seconds": took_s, "items_per_s": num_items / took_s, **asdict(spent)}


def _one_job(client: Client, references: Sequence[str]) -> int:
    status = client.wait(client.submit(references, model=MODEL).job_id)
    assert status.state == "succeeded"
    return status.num_succeeded


def _jobs_of_one(client: Client, references: Sequence[str]) -> int:
    jobs = [client.submit([reference], model=MODEL) for reference in references]
    return sum(client.wait(job.job_id).num_succeeded for job in jobs)


def _print(report: dict[str, object]) -> None:
    loops = sorted(report["bare_loop_images_per_s"])
    loop = loops[len(loops) // 2]
    console = output.console()
    console.print(f"\n{report['machine']}; shards of {report['shard_size']}, batches of {report['batch_size']}")
    console.print(f"Bare loop: {', '.join(f'{rate:,.0f}' for rate in loops)} images/s; median {loop:,.0f}")
    output.table(
        "\nThrough the queue",
        ("work", "items", "seconds", "items/s", "of bare loop", "per batch", "fetch", "decode", "forward", "record"),
        (
            (
                row["what"], row["items"], f"{row['seconds']:.2f}", f"{row['items_per_s']:,.0f}",
                f"{row['items_per_s'] / loop:.2f}", f"{row['items_per_batch']:.1f}",
                *(f"{row[f'{stage}_ms']:.2f} ms" for stage in ("fetch", "decode", "forward", "record")),
            )
            for row in report["rows"]
        ),
    )  # fmt: skip
    console.print(f"\nImporting the client: {min(report['client_import_s']):.2f} s at best")
    output.table(
        "\nMemory, MB resident",
        ("process", "before", "after"),
        ((name, f"{before:.0f}", f"{after:.0f}") for name, (before, after) in report["memory_mb"].items()),
    )


if __name__ == "__main__":
    sys.exit(main())
