"""Takes photos. Gives what the queue adds to one image on an idle system, and what 200 callers of one image each reach.

Knows nothing of how work travels. `python -m bench.latency --json FILE`; figures of a run stand side by side.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from bench import rows, stacks, stages
from bench.stacks import MODEL, Bench
from pipeline import backbones, images, references
from tests import data
from worker.cli import output
from worker.client import Client

ARCH = "mobilenet_v3_small"
NUM_CLASSES = 1000
#: Images one after another before a round is timed.
NUM_WARM = 20
#: Processes that the callers live in; each is a thread with a client of its own.
NUM_PROCESSES = 4
#: Seconds that one image may take before the run is given up.
PATIENCE_S = 120.0


def main() -> int:
    """Measure what was asked for and print it."""
    asked = _arguments()
    say = output.errors().print
    photos = sorted((data.place() / "imagenet-sample" / "images").iterdir())
    torch.manual_seed(0)
    found: list[rows.Row] = []
    with stacks.running(ARCH, backbones.build(ARCH, num_classes=NUM_CLASSES).eval(), NUM_CLASSES) as bench:
        if asked.singles:
            found += _alone(bench, _typical(photos).as_uri(), asked, say)
        if asked.clients:
            found += _crowd(bench, [photo.as_uri() for photo in photos], asked, say)
    rows.show("Small work", found)
    if asked.json:
        rows.write(Path(asked.json), found)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.latency", description="Measure small work beside bare work.")
    parser.add_argument("--singles", type=int, default=300, help="single images one after another; 0 leaves them out")
    parser.add_argument("--clients", type=int, default=200, help="callers at once; 0 leaves them out")
    parser.add_argument("--each", type=int, default=8, help="images that each caller sends, one after another")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of both sides, in turn")
    parser.add_argument("--json", metavar="FILE", help="write the figures too")
    return parser.parse_args()


def _typical(photos: Sequence[Path]) -> Path:
    """Choose the photo whose file is the median in size."""
    return sorted(photos, key=lambda photo: photo.stat().st_size)[len(photos) // 2]


# One image on an idle system: a bare call of fetch, decode and forward beside a round trip through the queue.


def _alone(bench: Bench, photo: str, asked: argparse.Namespace, say: Callable[[str], object]) -> list[rows.Row]:
    bare = _bare(bench, photo)
    ours, theirs = [], []
    for number in range(asked.rounds):
        say(f"One image, {asked.singles} times, round {number + 1} ...")
        theirs.append(_times_ms(bare, asked.singles))
        ours.append(_times_ms(lambda: _classify(bench.client, photo), asked.singles))
    return [
        rows.Row(
            work=f"one photo, idle system, {name} of {asked.singles}",
            against="bare fetch, decode and forward",
            ours=tuple(at(times, share) for times in ours),
            theirs=tuple(at(times, share) for times in theirs),
            unit="ms",
            adds_at_most=most,
            note="from submit to label and score in the caller's hand",
        )
        for name, share, most in (("p50", 0.5, 15.0), ("p99", 0.99, 40.0))
    ]


def _bare(bench: Bench, photo: str) -> Callable[[], object]:
    # The quickest for one image here: two threads that sleep while they wait for each other take twice as long.
    torch.set_num_threads(1)
    classifier = bench.open_classifier()
    roots, limits = references.Roots.parse(bench.stack.settings.allowed_roots), images.Limits()

    def classify() -> object:
        file = references.fetch(photo, roots, max_bytes=limits.max_bytes)
        pixels = classifier.preprocess.pixels(images.decode(file, limits))
        return classifier.predict(pixels[None], top_k=5)

    return classify


def _classify(client: Client, photo: str) -> None:
    [result] = client.classify([photo], model=MODEL)
    assert result.label is not None, result.error
    assert result.score is not None


def _times_ms(work: Callable[[], object], num: int) -> list[float]:
    times = []
    for _ in range(NUM_WARM + num):
        started_s = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started_s))
    return sorted(times[NUM_WARM:])


def at(times: Sequence[float], share: float) -> float:
    """Give the smallest of sorted times that `share` of them do not exceed."""
    return times[min(len(times) - 1, int(share * len(times)))]


# A crowd of callers with one image each, beside the same images as one job.


def _crowd(
    bench: Bench, photos: Sequence[str], asked: argparse.Namespace, say: Callable[[str], object]
) -> list[rows.Row]:
    num = asked.clients * asked.each
    named = [photos[number % len(photos)] for number in range(num)]
    ours, theirs, fills, waits = [], [], [], []
    reached = {"broker_url": bench.stack.settings.broker_url}
    with callers("from bench import latency; latency.call()", reached, asked.clients, named) as go:
        for number in range(asked.rounds):
            say(f"{num} photos as one job, then from {asked.clients} callers, round {number + 1} ...")
            theirs.append(num / _seconds(lambda: _as_one_job(bench.client, named)))
            marks = stages.mark(bench.logs)
            started_s = time.perf_counter()
            times = sorted(go())
            ours.append(num / (time.perf_counter() - started_s))
            fills.append(stages.since(marks, num_items=num).items_per_batch)
            waits.append(at(times, 0.5))
    fill = " ".join(f"{fill:.1f}" for fill in fills)
    wait = " ".join(f"{wait:,.0f}" for wait in waits)
    return [
        rows.Row(
            work=f"{asked.clients} callers, one photo at a time, {num} in all",
            against="the same photos as one job",
            ours=tuple(ours),
            theirs=tuple(theirs),
            unit="images/s",
            at_least=0.7,
            note=f"images per batch {fill}; p50 of a caller {wait} ms",
        )
    ]


def _seconds(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _as_one_job(client: Client, named: Sequence[str]) -> None:
    receipt = client.submit(named, model=MODEL)
    assert client.wait(receipt.job_id).state == "succeeded"
    assert sum(result.label is not None for result in client.results(receipt.job_id)) == len(named)


@contextmanager
def callers(
    program: str, reached: Mapping[str, object], num: int, named: Sequence[str]
) -> Iterator[Callable[[], list[float]]]:
    """Start the callers' processes; each call of what is given makes all callers send their images.

    `program` is Python that ends in `answer`; `reached` is what it is told of where to call.
    """
    share = -(-num // NUM_PROCESSES)
    counts = [min(share, num - first) for first in range(0, num, share)]
    processes = []
    for place, count in enumerate(counts):
        ours = named[place * share * (len(named) // num) :][: count * (len(named) // num)]
        command = [sys.executable, "-c", program]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        _tell(process, {**reached, "clients": count, "photos": ours})
    for process in processes:
        _hear(process)

    def go() -> list[float]:
        for process in processes:
            _tell(process, "go")
        return [wait for process in processes for wait in _hear(process)]

    try:
        yield go
    finally:
        for process in processes:
            process.stdin.close()
            process.wait()


def _tell(process: "subprocess.Popen[str]", what: object) -> None:
    process.stdin.write(json.dumps(what) + "\n")
    process.stdin.flush()


def _hear(process: "subprocess.Popen[str]") -> list[float]:
    return json.loads(process.stdout.readline())


def call() -> None:
    """Be one process of callers, each with a client of its own."""
    asked = json.loads(sys.stdin.readline())
    clients = [Client(asked["broker_url"], timeout_s=PATIENCE_S) for _ in range(asked["clients"])]
    for client in clients:
        client.ping()
    answer(asked, [partial(_classify, client) for client in clients])
    for client in clients:
        client.close()


def answer(asked: Mapping[str, Sequence[str]], classify: Sequence[Callable[[str], object]]) -> None:
    """Send images whenever a line on stdin says so, each caller its own; answer with each image's milliseconds."""
    each = len(asked["photos"]) // len(classify)
    together = threading.Barrier(len(classify))

    def send(place: int) -> list[float]:
        together.wait()
        mine = asked["photos"][place * each :][:each]
        return [1000 * _seconds(lambda photo=photo: classify[place](photo)) for photo in mine]

    with ThreadPoolExecutor(len(classify)) as threads:
        print("[]", flush=True)
        while sys.stdin.readline():
            times = [wait for waits in threads.map(send, range(len(classify))) for wait in waits]
            print(json.dumps(times), flush=True)


if __name__ == "__main__":
    sys.exit(main())
