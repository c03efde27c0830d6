"""Takes a folder of photos. Gives the floor and every peer's rounds, interleaved, as a table and as JSON.

A check of the peers by themselves: imagemill plays no part in it. Knows nothing of how the peers work.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench import floor, rows
from bench.floor import Floor
from bench.peers import environments, network, weights
from bench.peers.rounds import NUM_SHOWN, Task
from bench.peers.running import PEERS, Contest, Ran
from worker.cli import output

NUM_CLASSES = 1000


def main() -> int:
    """Measure, print, and write."""
    asked = _arguments()
    photos = sorted(str(file) for file in asked.photos.rglob("*") if file.suffix.lower() in (".jpeg", ".jpg", ".png"))
    with tempfile.TemporaryDirectory(prefix="im-peers-") as folder:
        file = Path(folder, "weights.pt")
        weights.save(asked.arch, NUM_CLASSES, photos, file)
        images = list(itertools.islice(itertools.cycle(photos), asked.images))
        cores = len(os.sched_getaffinity(0))
        task = Task(images=images, arch=asked.arch, num_classes=NUM_CLASSES, weights=str(file), cores=cores)
        ready = network.load(task.arch, task.weights, task.num_classes)
        floors = []
        with Contest(peers=asked.peers, task=task, folder=asked.environments) as contest:
            idle = contest.idle_cores(asked.idle_s) if asked.idle_s else {}
            for _ in range(asked.rounds):
                floors.append(floor.measure(ready, images, cores=cores))
                contest.round()
            ran = contest.ran()
        expected = [ready.answers([ready.pixels(image)])[0][0][0] for image in images[:NUM_SHOWN]]
    _print(asked, floors, ran, expected, idle)
    if asked.json:
        asked.json.write_text(json.dumps(_report(asked, floors, ran, expected, idle), indent=2))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.peers", description="Measure the peers beside the floor.")
    parser.add_argument("--photos", type=Path, required=True, metavar="FOLDER", help="used over and over")
    parser.add_argument("--arch", default="mobilenet_v3_small", help="a network of torchvision")
    parser.add_argument("--images", type=int, default=1000, help="images per round")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; the median is what to quote")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--environments", type=Path, default=environments.CACHE, metavar="FOLDER")
    parser.add_argument("--idle-s", type=float, default=0.0, help="seconds to watch each idle peer; 0 does not")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures too")
    return parser.parse_args()


def agreement(top1: Sequence[str], expected: Sequence[str]) -> str:
    """Say how many labels agree."""
    return f"{sum(map(str.__eq__, top1, expected))} of {len(expected)}" if top1 else ""


def _report(
    asked: argparse.Namespace, floors: list[Floor], ran: list[Ran], expected: list[str], idle: dict[str, float]
) -> dict[str, object]:
    return {
        "machine": rows.machine(),
        "versions": rows.versions(),
        "arch": asked.arch,
        "images": asked.images,
        "floors": [{**asdict(one), "images_per_s": one.images_per_s} for one in floors],
        "peers": [{**asdict(one), "agree": agreement(one.top1, expected)} for one in ran],
        "idle_cores": idle,
        "environments": [environments.make(one.peer, asked.environments).as_dict() for one in ran if one.images_per_s],
    }


def _print(
    asked: argparse.Namespace, floors: list[Floor], ran: list[Ran], expected: list[str], idle: dict[str, float]
) -> None:
    limit = statistics.median(one.images_per_s for one in floors)
    decode_ms, forward_ms = (
        1000 * statistics.median(getattr(one, name) for one in floors) for name in ("decode_s", "forward_s")
    )
    output.console().print(
        f"\n{rows.machine()}; {asked.arch}, {asked.images} photos. Floor {limit:.0f} images/s: "
        f"decode {decode_ms:.2f} ms, forward {forward_ms:.2f} ms of one core."
    )
    output.table(
        "\nPeers, images/s",
        ("peer", "median", "rounds", "of the floor", "same label", "idle cores", ""),
        (
            (
                one.peer,
                f"{statistics.median(one.images_per_s):.1f}" if one.images_per_s else "",
                " ".join(f"{rate:.0f}" for rate in one.images_per_s),
                f"{statistics.median(one.images_per_s) / limit:.2f}" if one.images_per_s else "",
                agreement(one.top1, expected),
                f"{idle[one.peer]:.2f}" if one.peer in idle else "",
                one.note,
            )
            for one in ran
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
