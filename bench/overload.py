"""Takes nothing. Gives what single images take while a bulk job of 100,000 runs, beside the same on an idle system.

Knows nothing of how either travels. `python -m bench.overload --json FILE`; two models are asked for single images:
that of the bulk job, and another one, which a worker must end a sitting for.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import rows, stacks
from bench.stacks import MODEL, OTHER, Bench
from pipeline import digits
from worker.cli import output
from worker.client import Client

#: Milliseconds that a single image may take while bulk runs, 99 of 100 of them.
MOST_MS = 2000
#: Images one after another before any is timed.
NUM_WARM = 20
#: Seconds that one image may take before the run is given up.
PATIENCE_S = 120.0


def main() -> int:
    """Measure what was asked for and print it."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="im-digits-") as folder:
        files = [str(digit.file) for digit in digits.write_images(Path(folder))[:300]]
        network = digits.small_network(10).eval()
        with stacks.running(digits.ARCH, network, 10, models=(MODEL, OTHER)) as bench:
            found = [*_measure(bench, files, MODEL, asked), *_measure(bench, files, OTHER, asked)]
    rows.show("Single images while bulk runs", found)
    if asked.json:
        rows.write(Path(asked.json), found)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.overload", description="Measure single images while bulk runs.")
    parser.add_argument("--bulk", type=int, default=100_000, help="images of 32 x 32 pixels in the bulk job")
    parser.add_argument("--callers", type=int, default=4, help="who each send one image after another")
    parser.add_argument("--pause-s", type=float, default=0.05, help="between two images of a caller")
    parser.add_argument("--idle", type=int, default=400, help="single images on the idle system")
    parser.add_argument("--json", metavar="FILE", help="write the figures too")
    return parser.parse_args()


def _measure(bench: Bench, files: Sequence[str], model: str, asked: argparse.Namespace) -> list[rows.Row]:
    say = output.errors().print
    for _ in range(NUM_WARM):
        _single(bench.client, files[0], model)
    say(f"{asked.idle} single images of {model}, idle system ...")
    left = iter(range(asked.idle))
    idle = _singles(bench, files, model, asked, lambda: next(left, None) is not None)
    say(f"{asked.bulk:,} images as one bulk job, alone, then with single images of {model} beside it ...")
    many = list(itertools.islice(itertools.cycle(files), asked.bulk))
    alone_s = _bulk(bench, many, threading.Event())
    is_over = threading.Event()
    with ThreadPoolExecutor(1) as beside:
        bulk = beside.submit(_bulk, bench, many, is_over)
        busy = _singles(bench, files, model, asked, lambda: not is_over.is_set())
        busy_s = bulk.result()
    whose = "its own model" if model == MODEL else "another model"
    work = f"one image of {whose} while {asked.bulk:,} run"
    note = f"{len(busy)} images of {asked.callers} callers, {len(idle)} idle"
    return [
        *(
            rows.Row(
                work=f"{work}, {name}", against="the same, idle system", ours=(_at(busy, share),),
                theirs=(_at(idle, share),), unit="ms", at_most=most, note=note,
            )
            for name, share, most in (("p50", 0.5, None), ("p99", 0.99, MOST_MS))
        ),
        rows.Row(
            work=f"{asked.bulk:,} images while single ones of {whose} pass", against="the same job alone",
            ours=(asked.bulk / busy_s,), theirs=(asked.bulk / alone_s,), unit="images/s",
        ),
    ]  # fmt: skip


def _bulk(bench: Bench, many: Sequence[str], is_over: threading.Event) -> float:
    """Run the bulk job with a client of its own. Gives seconds from its acceptance."""
    try:
        with Client(bench.stack.settings.broker_url, timeout_s=PATIENCE_S) as client:
            receipt = client.submit(many, model=MODEL)
            started_s = time.perf_counter()
            assert client.wait(receipt.job_id).num_succeeded == len(many)
            return time.perf_counter() - started_s
    finally:
        is_over.set()


def _singles(
    bench: Bench, files: Sequence[str], model: str, asked: argparse.Namespace, goes_on: Callable[[], bool]
) -> list[float]:
    """Let callers send one image after another. Gives sorted milliseconds from submit to outcome."""

    def call(number: int) -> list[float]:
        times = []
        with Client(bench.stack.settings.broker_url, timeout_s=PATIENCE_S) as client:
            for file in itertools.cycle(files[number :: asked.callers]):
                if not goes_on():
                    return times
                started_s = time.perf_counter()
                _single(client, file, model)
                times.append(1000 * (time.perf_counter() - started_s))
                time.sleep(asked.pause_s)
        return times

    with ThreadPoolExecutor(asked.callers) as callers:
        return sorted(each for times in callers.map(call, range(asked.callers)) for each in times)


def _single(client: Client, file: str, model: str) -> None:
    [result] = client.classify([file], model=model)
    assert result.label is not None, result.error


def _at(times: Sequence[float], share: float) -> float:
    """Give the smallest of sorted times that `share` of them do not exceed."""
    return times[min(len(times) - 1, int(share * len(times)))]


if __name__ == "__main__":
    sys.exit(main())
