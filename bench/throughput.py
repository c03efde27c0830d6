"""Takes a folder of photos. Gives images/s through the queue beside what the cores allow, a plain loop and its peers.

All in one run, in turns. Knows nothing of how the peers work. `python -m bench.throughput --json FILE`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from bench import floor, memory, rows, stacks, stages
from bench.floor import Floor
from bench.peers import environments, network, weights
from bench.peers.rounds import NUM_SHOWN, Task
from bench.peers.running import Contest
from bench.rows import Row
from bench.stacks import MODEL, Bench
from pipeline import decoders, devices, digits, images
from tests import data

#: Each with what we promise against it.
PROMISES = {
    "plain_loop": 1.0,
    "plain_lanes": 1.0,
    "celery_per_image": 1.5,
    "litserve_server": 1.5,
    "bentoml_service": 1.5,
    "ray_data": 1.5,
}
#: Images after which memory is looked at first.
SETTLED = 5_000


@dataclass(slots=True)
class _Rounds:
    """What was seen, a figure per round."""

    ours: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    own_floor: list[float] = field(default_factory=list)
    stages: list[stages.Spent] = field(default_factory=list)


def main() -> int:
    """Measure, print, and write."""
    asked = _arguments()
    photos = sorted(str(file) for file in asked.photos.rglob("*") if file.suffix.lower() in (".jpeg", ".jpg", ".png"))
    found: list[Row] = []
    spent: dict[str, object] = {}
    for arch in asked.arches:
        task_images = list(itertools.islice(itertools.cycle(photos), asked.images))
        more, spent[arch] = _photos(asked, arch, task_images)
        found += more
        _keep(asked, found, spent)
    if asked.tiny:
        found += _tiny(asked)
    rows.show("Throughput", found)
    _keep(asked, found, spent)
    return 0


def _keep(asked: argparse.Namespace, found: Sequence[Row], spent: dict[str, object]) -> None:
    """Write what is known so far: the whole takes a quarter of an hour."""
    if asked.json:
        rows.write(asked.json, found, stages=spent)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.throughput", description="Measure images/s beside floor and peers.")
    parser.add_argument("--photos", type=Path, default=data.place() / "imagenet-sample", metavar="FOLDER")
    parser.add_argument("--arches", nargs="*", default=["mobilenet_v3_small", "resnet18"], help="of torchvision")
    parser.add_argument("--images", type=int, default=1500, help="photos per round")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; the median is what to quote")
    parser.add_argument("--peers", nargs="*", choices=PROMISES, default=list(PROMISES), metavar="PEER")
    parser.add_argument("--environments", type=Path, default=environments.CACHE, metavar="FOLDER")
    parser.add_argument("--tiny", type=int, default=100_000, help="images of 32 x 32 pixels; 0 leaves them out")
    parser.add_argument("--tiny-peer", type=int, default=10_000, help="of those, how many the peer is given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures too")
    return parser.parse_args()


# ---------------------------------------------------------------- photos


def _photos(asked: argparse.Namespace, arch: str, photos: list[str]) -> tuple[list[Row], object]:
    seen = _Rounds()
    with _task(arch, 1000, photos) as task, Contest(peers=asked.peers, task=task, folder=asked.environments) as contest:
        ready = network.load(arch, task.weights, 1000)
        with stacks.running(arch, network.load(arch, task.weights, 1000).module, 1000) as bench:
            _classify(bench, photos[:64])
            agreed = _agreed(bench, photos, ready)
            for _ in range(asked.rounds):
                marks = stages.mark(bench.logs)
                seen.ours.append(_classify(bench, photos))
                seen.stages.append(stages.since(marks, num_items=len(photos)))
                with bench.stopped():
                    seen.floor.append(floor.measure(ready, photos, cores=task.cores).images_per_s)
                    seen.own_floor.append(_own_floor(bench, photos, task.cores).images_per_s)
                    contest.round()
        ran = contest.ran()
    work = f"{len(photos):,} photos, {arch}"
    ours = tuple(seen.ours)
    same = f"same label as the plain network: {agreed}"
    usual = {"work": work, "ours": ours, "unit": "images/s"}
    found = [
        Row(**usual, against="the cores' floor: Pillow, eager", theirs=tuple(seen.floor), at_least=0.85, note=same),
        Row(**usual, against="the floor of our own parts", theirs=tuple(seen.own_floor), at_least=0.85),
    ]
    found += [
        Row(**usual, against=one.peer, theirs=one.images_per_s, at_least=PROMISES[one.peer], note=one.note)
        for one in ran
    ]
    return found, [asdict(one) for one in seen.stages]


@contextmanager
def _task(arch: str, num_classes: int, photos: list[str]) -> Iterator[Task]:
    with tempfile.TemporaryDirectory(prefix="im-weights-") as folder:
        file = Path(folder, "weights.pt")
        weights.save(arch, num_classes, photos, file)
        cores = len(os.sched_getaffinity(0))
        yield Task(images=photos, arch=arch, num_classes=num_classes, weights=str(file), cores=cores)


def _classify(bench: Bench, photos: Sequence[str]) -> float:
    """Submit a job and wait for its last outcome. Gives images/s."""
    started_s = time.perf_counter()
    status = bench.client.wait(bench.client.submit(photos, model=MODEL).job_id)
    took_s = time.perf_counter() - started_s
    assert status.num_succeeded == len(photos), status
    return len(photos) / took_s


def _agreed(bench: Bench, photos: Sequence[str], ready: network.Network) -> str:
    some = photos[:NUM_SHOWN]
    ours = [result.label for result in bench.client.classify(some, model=MODEL)]
    theirs = [ready.answers([ready.pixels(photo)])[0][0][0] for photo in some]
    return f"{sum(map(str.__eq__, ours, theirs))} of {len(some)}"


def _own_floor(bench: Bench, photos: Sequence[str], cores: int) -> Floor:
    """Time our own decoding and forward pass, each alone on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        classifier = bench.open_classifier()
        decoder, size = decoders.fastest(), classifier.preprocess.resize_size
        some = [Path(photo).read_bytes() for photo in photos[: floor.MAX_IMAGES]]
        started_s = time.perf_counter()
        pixels = [
            classifier.preprocess.quick_pixels(decoder.decode(data, images.Limits(), resize_size=size)) for data in some
        ]
        decoded_s = time.perf_counter()
        for batch in torch.stack(pixels).permute(0, 3, 1, 2).split(devices.BATCH_ON_CPU):
            classifier.predict(batch, top_k=5)
        done_s = time.perf_counter()
    finally:
        torch.set_num_threads(threads)
    return Floor(decode_s=(decoded_s - started_s) / len(some), forward_s=(done_s - decoded_s) / len(some), cores=cores)


# ---------------------------------------------------------------- tiny images


def _tiny(asked: argparse.Namespace) -> list[Row]:
    """Measure images of 32 x 32 pixels, what a second process changes, and whether memory grows."""
    ours: list[float] = []
    with tempfile.TemporaryDirectory(prefix="im-digits-") as folder:
        files = [str(digit.file) for digit in digits.write_images(Path(folder))[:300]]
        many = list(itertools.islice(itertools.cycle(files), asked.tiny))
        few = list(itertools.islice(itertools.cycle(files), min(asked.tiny, asked.tiny_peer)))
        with (
            _task("digits", 10, few) as task,
            Contest(peers=("celery_per_image",), task=task, folder=asked.environments) as contest,
            stacks.running(digits.ARCH, network.load("digits", task.weights, 10).module, 10) as bench,
        ):
            module = network.load("digits", task.weights, 10).module
            _classify(bench, many[:SETTLED])
            before = memory.of(bench.stack)
            for _ in range(asked.rounds):
                ours.append(_classify(bench, many))
                with bench.stopped():
                    contest.round()
            after = memory.of(bench.stack)
            with bench.stopped(), stacks.running(digits.ARCH, module, 10, processes=1) as single:
                _classify(single, many[:SETTLED])
                alone = [_classify(single, many) for _ in range(asked.rounds)]
            [ran] = contest.ran()
    child = "classify, its child"
    return [
        Row(
            work=f"{asked.tiny:,} images of 32 x 32", against=f"{ran.peer}, {len(few):,} of them", ours=tuple(ours),
            theirs=ran.images_per_s, unit="images/s", at_least=20, note=ran.note,
        ),
        Row(
            work="a process for each of these cores", against="one process", ours=tuple(ours), theirs=tuple(alone),
            unit="images/s", at_least=1.0,
        ),
        Row(
            work=f"resident size after {asked.tiny * asked.rounds + SETTLED:,} images", against=f"after {SETTLED:,}",
            ours=(after[child],), theirs=(before[child],), unit="MB", adds_at_most=0.03 * before[child],
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
