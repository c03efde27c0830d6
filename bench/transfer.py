"""Takes real weights and labelled sets. Gives accuracies of the three strategies beside what the plan chooses.

Knows nothing of the queue: it calls what a run's steps call. `python -m bench.transfer` prints the table of
docs/learning.md; the test folders are only measured on.
"""

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch

from db import registry
from pipeline import backbones, checkpoints, devices, images, references, state_dicts
from pipeline.learning import evaluation, snapshots
from pipeline.learning.plan import Thresholds, decide
from pipeline.learning.recipes import Recipe
from pipeline.learning.snapshots import Example, Snapshot
from tests import data
from worker.cli import output
from worker.learning import answers, material, planning, training, trials
from worker.learning.training import Trained
from worker.learning.watch import Pace
from worker.learning.workshop import Workshop
from worker.playbook import Playbook
from worker.settings import NUM_CORES

#: set -> test accuracy of the linear probe by images per class, as weights/SOURCES.md has it
SETS = {
    "cats-dogs2": {20: 0.974, 50: 0.978, 0: 0.975},
    "trashnet6": {20: 0.629, 50: 0.677, 0: 0.725},
    "sign-digits10": {20: 0.844, 50: 0.888, 0: 0.931},
}
NUM_CLASSES = {"cats-dogs2": 2, "trashnet6": 6, "sign-digits10": 10}
#: share of the images of the train folder that choose
VAL_SHARE = 0.15
STRATEGIES = ("head", "last_stage", "all")
#: what a plan may let compete
ORDERS = (("head",), ("head", "last_stage"), ("head", "all"), ("all", "head"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of the table."""

    set: str
    #: images per class; 0 is all
    num_per_class: int
    seed: int
    num_train: int
    cell: str
    score: float
    gain: float | None
    decision: str
    chosen: str
    why: str
    #: what would be chosen among these, the first being the default
    chosen_among: dict[str, str]
    #: by strategy, on the test folder
    accuracy: dict[str, float]
    val_accuracy: dict[str, float]
    ended: dict[str, str]
    linear_probe: float
    #: of the best accuracy, binomial
    standard_error: float
    seconds: float

    @property
    def is_near_best(self) -> bool:
        """Whether the chosen strategy lies within one standard error of the best."""
        return self.accuracy[self.chosen] >= max(self.accuracy.values()) - self.standard_error


def main() -> int:
    """Run the rows that were asked for and print them."""
    asked = _arguments()
    if asked.again:
        _print([_planned_anew(Result(**row)) for file in asked.again for row in json.loads(Path(file).read_text())])
        return 0
    data = Path(asked.data)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="im-transfer-") as folder:
        workshop = _workshop(data, Path(folder), asked.device)
        base = _base(workshop, data)
        for name, num_per_class, seed in _rows(asked):
            result = _row(workshop, base, data / "sets" / name, num_per_class, seed, asked.budget)
            results.append(result)
            print(json.dumps({name: getattr(result, name) for name in result.__slots__}), file=sys.stderr, flush=True)
    _print(results)
    if asked.json:
        rows = [{name: getattr(result, name) for name in result.__slots__} for result in results]
        Path(asked.json).write_text(json.dumps(rows, indent=2))
    return 0 if all(result.is_near_best for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.transfer", description="Measure real transfer.")
    parser.add_argument("--data", default=str(data.place()), help="folder with weights/ and sets/")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[20, 50, 0], help="images per class; 0 is all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budget", type=int, default=2_600, help="images seen in one fine-tuning")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--again", nargs="+", metavar="FILE", help="print what --json wrote, by the planner of today")
    parser.add_argument("--json", metavar="FILE", help="write the figures too")
    return parser.parse_args()


def _rows(asked: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    for size in asked.sizes:
        for name in reversed(asked.sets):
            for seed in asked.seeds if size else asked.seeds[:1]:
                yield name, size, seed


def _row(
    workshop: Workshop, base: registry.Version, folder: Path, num_per_class: int, seed: int, budget: int
) -> Result:
    began_s = time.perf_counter()
    snapshot = _snapshot(folder, num_per_class, seed)
    pace = Pace(model=folder.name, seed=seed)
    gathered = material.gather(workshop, pace, snapshot, material.open_start(workshop, base))
    planned = planning.make_plan(workshop, pace, gathered, Playbook(model=folder.name), is_forced=True)
    # Cats and rubbish may be mirrored; signs of a hand too, for either hand makes them.
    epochs = _epochs(budget, len(gathered.train))
    recipe = Recipe(learning_rate=0.02, backbone_scale=1.0, label_smoothing=0.1, epochs=epochs, horizontal_flip=True)
    with tempfile.TemporaryDirectory(prefix="im-run-") as state:
        trained = training.train(
            workshop, pace, gathered, recipe, STRATEGIES, folder=Path(state), on_epoch=lambda *_: None
        )
    chosen, why = trials.choose(
        [trial for trial in trained.trials if trial.strategy in planned.plan.candidates],
        gathered.val.targets,
        planned.plan.candidates,
    )
    accuracy = _accuracies(workshop, pace, gathered, trained)
    best = max(accuracy.values())
    return Result(
        set=folder.name,
        num_per_class=num_per_class,
        seed=seed,
        num_train=len(gathered.train),
        cell=planned.plan.cell,
        score=planned.similarity.score,
        gain=planned.similarity.gain,
        decision=" / ".join(planned.plan.candidates) if planned.plan.is_recommended else "not recommended",
        chosen=chosen.strategy,
        why=why,
        chosen_among={
            " ".join(order): trials.choose(
                [trial for trial in trained.trials if trial.strategy in order], gathered.val.targets, order
            )[0].strategy
            for order in ORDERS
        },
        accuracy=accuracy,
        val_accuracy={trial.strategy: trial.metrics.balanced_accuracy for trial in trained.trials},
        ended={trial.strategy: f"best {trial.best} of {len(trial.epochs) - 1}" for trial in trained.trials[1:]},
        linear_probe=SETS[folder.name][num_per_class],
        standard_error=math.sqrt(best * (1 - best) / len(gathered.test)),
        seconds=time.perf_counter() - began_s,
    )


def _planned_anew(result: Result) -> Result:
    """Give a row as today's planner would have it: what was measured stays."""
    num_classes = NUM_CLASSES[result.set]
    plan = decide(
        result.num_train, result.num_train / num_classes, result.score, result.gain, Thresholds(), forced=True
    )
    return replace(
        result,
        cell=plan.cell,
        decision=" / ".join(plan.candidates) if plan.is_recommended else "not recommended",
        chosen=result.chosen_among[" ".join(plan.candidates)],
    )


def _epochs(budget: int, num_train: int) -> int:
    return max(6 if num_train > 1000 else 8, min(30, round(budget / num_train)))


def _accuracies(workshop: Workshop, pace: Pace, gathered: material.Material, trained: Trained) -> dict[str, float]:
    start, found = gathered.start, {}
    for trial in trained.trials:
        logits, kept = answers.logits_of(
            workshop, pace, trial.network, start.layers, start.preprocess, gathered.test.examples
        )
        targets = material.targets_of(gathered.snapshot.classes, kept)
        found[trial.strategy] = evaluation.measure(logits, targets, gathered.snapshot.classes).accuracy
    return found


def _snapshot(folder: Path, num_per_class: int, seed: int) -> Snapshot:
    drawing = random.Random(seed)  # noqa: S311 - a draw, not a secret
    classes = sorted(child.name for child in (folder / "train").iterdir() if child.is_dir())
    examples: list[Example] = []
    for name in classes:
        files = sorted((folder / "train" / name).iterdir())
        drawing.shuffle(files)
        files = files[: num_per_class or None]
        num_val = max(1, round(VAL_SHARE * len(files)))
        examples += [_example(file, name, "val") for file in files[:num_val]]
        examples += [_example(file, name, "train") for file in files[num_val:]]
        examples += [_example(file, name, "test") for file in sorted((folder / "test" / name).iterdir())]
    unique = {example.sha256: example for example in examples}
    return snapshots.collect(classes, unique.values())


def _example(file: Path, label: str, split: snapshots.Split) -> Example:
    digest = sha256(file.read_bytes()).hexdigest()
    return Example(sha256=digest, reference=file.resolve().as_uri(), label=label, split=split)


def _workshop(data: Path, folder: Path, device: str) -> Workshop:
    torch.set_num_threads(NUM_CORES)
    return Workshop(
        sessions=None,  # nothing here is recorded
        store=folder.as_uri(),
        folder=folder / "runs",
        device=devices.choose_device(device),
        pool=ThreadPoolExecutor(NUM_CORES),
        roots=references.Roots.parse([str(data.resolve())]),
        limits=images.Limits(),
        batch_size=32,
        pixel_cache_bytes=4 * 1024**3,
    )


def _base(workshop: Workshop, data: Path) -> registry.Version:
    network = backbones.build("mobilenet_v2", num_classes=1000)
    state_dicts.load(network, state_dicts.read(data / "weights" / "mobilenet_v2-torchvision.pth"))
    draft = checkpoints.Draft(
        arch="mobilenet_v2",
        classes=tuple(f"class {number}" for number in range(1000)),
        preprocess=backbones.preprocess_for("mobilenet_v2"),
    )
    saved = checkpoints.save(network, draft, workshop.store, now_s=0.0)
    return registry.Version(
        model="imagenet", arch="mobilenet_v2", num_classes=1000, reference=saved.reference, sha256=saved.sha256,
        source="import", parent_id=None, metrics={}, num_parameters=saved.card.num_parameters,
        id=1, number=1, created_at_s=0.0,
    )  # fmt: skip


def _print(results: list[Result]) -> None:
    output.table(
        "Accuracy on the test folder",
        ("set", "per class", "seed", "train", "cell", "5-shot", "gain", "plan", "head", "last stage", "all", "chosen",
         "within 1 SE", "linear probe"),
        (
            (
                one.set, one.num_per_class or "all", one.seed, one.num_train, one.cell, f"{one.score:.2f}",
                "" if one.gain is None else f"{one.gain:+.2f}", one.decision,
                *(f"{one.accuracy[strategy]:.3f}" for strategy in STRATEGIES), one.chosen,
                "yes" if one.is_near_best else f"no ({one.standard_error:.3f})", f"{one.linear_probe:.3f}",
            )
            for one in results
        ),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
