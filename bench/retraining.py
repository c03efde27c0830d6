"""Takes nothing. Gives what keeping a model current costs: a head refitted on the cache, epochs/s, label to swap.

Each figure stands beside something measured in the same run. `python -m bench.retraining` prints it; `make bench` does.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from statistics import median

import torch
from torch import nn

from pipeline import backbones, digits, images, references
from pipeline.learning import features, finetune, heads, layers, recipes
from pipeline.learning.pixels import PixelCache
from pipeline.learning.views import Views
from worker import runtime
from worker.cli import output, stack
from worker.cli.demo import Story, make_base, quick_settings
from worker.client import Client
from worker.settings import NUM_CORES, Settings

ARCH, NUM_CLASSES = "mobilenet_v2", 10


def main() -> int:
    """Measure and print."""
    asked = _arguments()
    torch.set_num_threads(NUM_CORES)
    say = output.errors().print
    with tempfile.TemporaryDirectory(prefix="im-retrain-") as folder, ThreadPoolExecutor(NUM_CORES) as pool:
        home = Path(folder)
        written = digits.write_images(home / "images" / "digits")
        say(f"Features of {asked.images} images, then of 100 more ...")
        cache = _cache_row(home, written, asked.images, pool)
        say("Fine-tuning beside a plain loop ...")
        epochs = _epoch_row(home, written[: asked.tuned], asked.rounds, pool)
        say("From the last label to the swapped worker ...")
        swap_s = [_label_to_swap_s(home / f"mill-{number}") for number in range(asked.rounds)]
    report = {"cache": cache, "epochs": epochs, "label_to_swap_s": swap_s}
    _print(report)
    if asked.json:
        Path(asked.json).write_text(json.dumps(report, indent=2))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.retraining", description="Measure what keeping current costs.")
    parser.add_argument("--images", type=int, default=20_000, help="images in the cache")
    parser.add_argument("--tuned", type=int, default=256, help="images of one epoch of fine-tuning")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the figures too")
    return parser.parse_args()


# ---------------------------------------------------------------- the head on the cache


def _cache_row(home: Path, written: Sequence[digits.Digit], num: int, pool: ThreadPoolExecutor) -> dict[str, float]:
    network, found, preprocess = _network()
    # Each file stands for many images: what is cached goes by the name it is given.
    sources = [(f"{row:064x}", written[row % len(written)]) for row in range(num + 100)]
    targets = torch.tensor([int(digit.label) for _, digit in sources])
    cache = features.FeatureCache.open(home.as_uri(), layers.backbone_sha256(network, found), preprocess.digest())

    def learn(rows: int) -> tuple[float, int]:
        began_s = time.perf_counter()
        missing = cache.missing(name for name, _ in sources[:rows])
        known = dict(sources)
        batches = [missing[first : first + 32] for first in range(0, len(missing), 32)]
        with features.forward_of(
            network, found, preprocess, device=torch.device("cpu"), dtype=torch.float32
        ) as forward:
            for batch in batches:
                pixels = list(pool.map(lambda name: _pixels(known[name].file, preprocess), batch))
                cache.add(batch, forward(torch.stack(pixels)))
        values = cache.rows([name for name, _ in sources[:rows]])
        l2 = heads.choose_l2(values, targets[:rows], NUM_CLASSES, is_balanced=True).l2
        heads.balance(values, targets[:rows], NUM_CLASSES, l2=l2)
        return time.perf_counter() - began_s, len(missing)

    everything_s, num_first = learn(num)
    again_s, num_again = learn(num + 100)
    return {
        "num_images": num,
        "num_forwards": num_first,
        "num_forwards_again": num_again,
        "everything_s": everything_s,
        "again_s": again_s,
        "ratio": everything_s / again_s,
    }


def _network() -> tuple[nn.Module, layers.Layers, object]:
    preprocess = backbones.preprocess_for(ARCH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = backbones.build(ARCH, num_classes=NUM_CLASSES)
    network = network.eval().to(memory_format=torch.channels_last)
    return network, layers.layers(network, preprocess.crop_size), preprocess


def _pixels(file: Path, preprocess: object) -> torch.Tensor:
    return preprocess.pixels(images.decode(file.read_bytes(), images.Limits()))


# ---------------------------------------------------------------- epochs beside a plain loop


def _epoch_row(home: Path, written: Sequence[digits.Digit], rounds: int, pool: ThreadPoolExecutor) -> dict[str, object]:
    network, found, preprocess = _network()
    recipe = recipes.Recipe(epochs=1, batch_size=32, patience=0, ema="off", augmentation="none", precision="bf16")
    settled = recipes.settle(recipe, num_train=len(written), num_classes=NUM_CLASSES, kind=found.kind, strategy="all")
    roots = references.Roots.parse([str(home)])
    sources = [(_sha256(digit.file), digit.file.as_uri()) for digit in written]
    targets = [int(digit.label) for digit in written]

    def ours(number: int) -> float:
        caches = [
            PixelCache(
                part,
                fetch=lambda reference: references.fetch(reference, roots, max_bytes=10_000_000),
                limits=images.Limits(),
                preprocess=preprocess,
                max_bytes=2**31,
                on_lost=print,
            )
            for part in (sources, sources[:8])
        ]
        train, val = (Views(cache, tuple(range(len(cache))), preprocess, settled) for cache in caches)
        done = finetune.finetune(
            network, found, train=train, train_targets=targets, val=val, val_targets=targets[:8],
            num_classes=NUM_CLASSES, preprocess=preprocess, settled=settled, seed=0, device=torch.device("cpu"),
            folder=home / f"state-{number}", keep_going=lambda: None, on_epoch=lambda _: None, threads=pool,
        )  # fmt: skip
        return done.epochs[0].images_per_s

    def plain() -> float:
        student = _network()[0].train()
        layers.freeze_batch_norm(student)
        optimizer = torch.optim.SGD(student.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
        order = torch.randperm(len(written)).tolist()
        began_s = time.perf_counter()
        for first in range(0, len(order), 32):
            rows = order[first : first + 32]
            pixels = torch.stack(list(pool.map(lambda row: _pixels(written[row].file, preprocess), rows)))
            inputs = preprocess.normalize(pixels.contiguous(memory_format=torch.channels_last))
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(student(inputs), torch.tensor([targets[row] for row in rows]))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
        return len(order) / (time.perf_counter() - began_s)

    pairs = [(ours(number), plain()) for number in range(rounds)]
    return {
        "ours_images_per_s": [one for one, _ in pairs],
        "plain_images_per_s": [other for _, other in pairs],
        "ratio": median(one for one, _ in pairs) / median(other for _, other in pairs),
    }


def _sha256(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


# ---------------------------------------------------------------- from label to swap


def _label_to_swap_s(home: Path) -> float:
    """Run the demo's stack, let it learn five digits, and time what follows the last label of the others."""
    written = digits.write_images(home / "images" / "digits")
    known, held_out = digits.split(written, 0)
    settings = quick_settings(Settings(home=home).resolved(), home, known)
    story = Story(output.errors(), settings, time.monotonic())
    make_base(story, 0)
    with (
        stack.running(settings, say=story.say),
        Client(settings.broker_url) as client,
        runtime.ledger(settings) as sessions,
    ):
        story.label(client, [digit for digit in known if digit.label in "01234"], "01234")
        story.await_promotion(sessions, 1)
        story.label(client, [digit for digit in known if digit.label in "56789"], "56789")
        began_s = time.monotonic()
        story.await_promotion(sessions, 2)
        story.await_swap(client, held_out)
        return time.monotonic() - began_s


def _print(report: dict[str, dict[str, object]]) -> None:
    cache, epochs, swaps = report["cache"], report["epochs"], report["label_to_swap_s"]
    console = output.console()
    output.table(
        f"\nHead on the cache, {ARCH} at 224",
        ("work", "forwards", "seconds"),
        (
            (f"all {cache['num_images']:,} images", cache["num_forwards"], f"{cache['everything_s']:.1f}"),
            ("100 more", cache["num_forwards_again"], f"{cache['again_s']:.1f}"),
        ),
    )
    console.print(f"Recomputing everything takes {cache['ratio']:.0f} times as long.")
    console.print(
        f"\nFine-tuning: {', '.join(f'{rate:.1f}' for rate in epochs['ours_images_per_s'])} images/s, a plain loop "
        f"{', '.join(f'{rate:.1f}' for rate in epochs['plain_images_per_s'])}; ratio {epochs['ratio']:.2f}"
    )
    console.print(f"\nFrom the last label to the swapped worker: {', '.join(f'{one:.1f}' for one in swaps)} s")


if __name__ == "__main__":
    sys.exit(main())
