"""Takes a run's material and plan. Gives the challenger: the head, and what of the backbone proved worth training.

Knows nothing of test images, gates or SQL. The bake-off is decided on the validation images.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.learning import augmentation, evaluation, finetune, heads, layers, recipes
from pipeline.learning.epochs import Epoch
from pipeline.learning.heads import CrossValidated, Head
from pipeline.learning.layers import Strategy
from pipeline.learning.pixels import PixelCache
from pipeline.learning.recipes import Recipe, Settled
from pipeline.preprocess import Preprocess
from worker.learning.material import Material, Part, features_of, source
from worker.learning.watch import Pace
from worker.learning.workshop import Workshop

log = logging.getLogger(__name__)

#: Told of each epoch, with the strategy it belongs to and the number of epochs there are to be.
OnEpoch = Callable[[Strategy, Epoch, int], None]

#: largest class over smallest, from which the classifier of a trained backbone is balanced anew
UNBALANCED = 1.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """One strategy of the bake-off, as it did on the validation images."""

    strategy: Strategy
    #: on its device, in evaluation mode, with its head
    network: nn.Module
    #: fp32 [V, C]
    val_logits: Tensor
    metrics: evaluation.Metrics
    settled: Settled
    #: standard error of the balanced accuracy
    standard_error: float
    seconds: float
    epochs: tuple[Epoch, ...] = ()
    best: int | None = None
    #: whether it may win: not what only memorised
    is_eligible: bool = True
    frozen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What training gives."""

    chosen: Trial
    trials: tuple[Trial, ...]
    #: why this one
    reason: str
    #: strength of the head, and out-of-fold probabilities of the training images
    cross_validated: CrossValidated


def train(
    workshop: Workshop,
    pace: Pace,
    material: Material,
    recipe: Recipe,
    strategies: Sequence[Strategy],
    *,
    folder: Path,
    on_epoch: OnEpoch,
) -> Trained:
    """Solve the head, train each other strategy from it, and choose on the validation images.

    What training resumes from after a crash lies in `folder`.
    Raises `TrainingDiverged`, `RecipeInvalid` (an optimizer's options), `torch.OutOfMemoryError` if one image is too
    many, `OSError` if there is no room for the state, and what `pace.keep_going` raises.
    """
    head, cross_validated = _head(pace, material, recipe)
    trials = [_head_trial(material, recipe, head)]
    if set(strategies) - {"head"}:
        read = partial(_read_pictures, workshop, material.start.preprocess)
        pictures = read(material.train), read(material.val)
        trials += [
            _finetuned(workshop, pace, material, recipe, head, strategy, pictures, folder, on_epoch)
            for strategy in strategies
            if strategy != "head"
        ]
    chosen, reason = choose(trials, material.val.targets, strategies)
    return Trained(chosen=chosen, trials=tuple(trials), reason=reason, cross_validated=cross_validated)


def choose(trials: Sequence[Trial], targets: Tensor, strategies: Sequence[Strategy]) -> tuple[Trial, str]:
    """Choose on the validation images: the plan's default, unless another is better by more than a standard error.

    First by balanced accuracy; where that cannot tell them apart, by the likelihood of the labels, which says more
    per image. Both are compared image by image, for the differences vary far less than the scores do.
    """
    eligible = [trial for trial in trials if trial.is_eligible]
    order = [*strategies, "head"]
    default = min(eligible, key=lambda trial: order.index(trial.strategy))
    rivals = [trial for trial in eligible if trial is not default]
    for what, score in (("balanced accuracy", _hits), ("likelihood", _likelihoods)):
        gains = [(_gain(score(rival, targets), score(default, targets), targets), rival) for rival in rivals]
        better = [(mean, spread, rival) for (mean, spread), rival in gains if mean > spread]
        if better:
            mean, spread, rival = max(better, key=lambda found: found[0])
            return rival, (
                f"{_said(rival)} beats {_said(default)} in {what} on {len(targets)} validation images, "
                f"by {mean:.3f} (standard error {spread:.3f})."
            )
    others = f"; {', '.join(_said(rival) for rival in rivals)} is not better by a standard error" if rivals else ""
    return default, f"{_said(default).capitalize()} is the plan's default{others}."


# ---------------------------------------------------------------- comparing


def _hits(trial: Trial, targets: Tensor) -> Tensor:
    return (trial.val_logits.argmax(dim=1) == targets).double()


def _likelihoods(trial: Trial, targets: Tensor) -> Tensor:
    temperature = evaluation.fit_temperature(trial.val_logits, targets)
    return -evaluation.negative_log_likelihoods(trial.val_logits, targets, temperature)


def _gain(ours: Tensor, theirs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Give the mean difference with classes weighing alike, and its standard error."""
    difference = ours - theirs
    by_class = [difference[targets == number] for number in sorted(set(targets.tolist()))]
    mean = float(torch.stack([part.mean() for part in by_class]).mean())
    # With the spread of all images: a class with one image has none of its own.
    variance = float(difference.var(correction=0)) * sum(1 / len(part) for part in by_class) / len(by_class) ** 2
    return mean, math.sqrt(variance)


def _said(trial: Trial) -> str:
    return {"head": "the head alone", "last_stage": "the last stage", "all": "the whole network"}[trial.strategy]


# ---------------------------------------------------------------- the head


def _head(pace: Pace, material: Material, recipe: Recipe) -> tuple[Head, CrossValidated]:
    train, num_classes = material.train, len(material.snapshot.classes)
    is_balanced = recipe.imbalance == "balance"
    cross_validated = heads.choose_l2(
        train.features,
        train.targets,
        num_classes,
        seed=pace.seed,
        is_balanced=is_balanced,
        removed=material.masked,
    )
    pace.keep_going()
    solve = heads.balance if is_balanced else heads.fit
    head = solve(train.features, train.targets, num_classes, l2=cross_validated.l2, removed=material.masked)
    if recipe.imbalance == "adjust":
        head = heads.adjust(head, train.targets)
    return head, cross_validated


def _head_trial(material: Material, recipe: Recipe, head: Head) -> Trial:
    began_s = time.perf_counter()
    start = material.start
    network = start.network(head.num_classes)
    heads.apply(network, start.layers, head)
    frozen = layers.freeze(network, start.layers, "head")
    return _trial(
        material,
        _settled(material, recipe, "head"),
        network.eval(),
        heads.logits(head, material.val.features),
        began_s=began_s,
        frozen=frozen,
    )


# ---------------------------------------------------------------- the backbone


class _Pictures:
    """A split's images for the training loop, from the pixel cache."""

    def __init__(self, cache: PixelCache, preprocess: Preprocess, settled: Settled) -> None:
        self._cache, self._preprocess, self._settled = cache, preprocess, settled

    def __len__(self) -> int:
        return len(self._cache)

    def train(self, index: int, rng: np.random.Generator) -> Tensor:
        image = Image.fromarray(self._cache.image(index).permute(1, 2, 0).contiguous().numpy())
        return augmentation.view(image, self._preprocess, self._settled, rng)

    def eval(self, index: int) -> Tensor:
        return self._cache.pixels(index)


def _finetuned(
    workshop: Workshop,
    pace: Pace,
    material: Material,
    recipe: Recipe,
    head: Head,
    strategy: Strategy,
    caches: tuple[PixelCache, PixelCache],
    folder: Path,
    on_epoch: OnEpoch,
) -> Trial:
    began_s = time.perf_counter()
    start = material.start
    settled = _settled(material, recipe, strategy)
    network = start.network(head.num_classes)
    heads.apply(network, start.layers, head)
    train, val = (_Pictures(cache, start.preprocess, settled) for cache in caches)
    done = finetune.finetune(
        network,
        start.layers,
        train=train,
        train_targets=material.train.targets.tolist(),
        val=val,
        val_targets=material.val.targets.tolist(),
        num_classes=head.num_classes,
        preprocess=start.preprocess,
        settled=settled,
        seed=pace.seed,
        device=workshop.device,
        folder=folder / strategy,
        keep_going=pace.keep_going,
        on_epoch=lambda epoch: on_epoch(strategy, epoch, settled.epochs),
        threads=workshop.pool,
    )
    log.info("%s of %s trained, %s epochs, %s", strategy, pace.model, len(done.epochs), done.ended)
    val_logits = _forward(workshop, start.preprocess, done.network, val)
    trial = _trial(material, settled, done.network, val_logits, began_s=began_s, frozen=done.frozen)
    trial = replace(
        trial,
        epochs=(done.start, *done.epochs),
        best=done.best,
        notes=done.notes,
        is_eligible=done.ended != "memorised",
    )
    return _balanced(workshop, pace, material, trial, began_s) if recipe.imbalance == "balance" else trial


def _balanced(workshop: Workshop, pace: Pace, material: Material, trial: Trial, began_s: float) -> Trial:
    """Refit the classifier with classes of equal weight on the trained backbone, and keep it if it is no worse."""
    counts = torch.bincount(material.train.targets)
    if float(counts.max() / counts[counts > 0].min()) < UNBALANCED:
        return trial
    start, num_classes = material.start, len(material.snapshot.classes)
    values, kept, _ = features_of(
        workshop,
        pace,
        trial.network,
        start.layers,
        start.preprocess,
        (*material.train.examples, *material.val.examples),
    )
    if len(kept) < len(material.train) + len(material.val):
        return trial
    train_values, val_values = values[: len(material.train)], values[len(material.train) :]
    targets = material.train.targets
    l2 = heads.choose_l2(train_values, targets, num_classes, seed=pace.seed, removed=material.masked).l2
    head = heads.balance(train_values, targets, num_classes, l2=l2, removed=material.masked)
    logits = heads.logits(head, val_values)
    metrics = evaluation.measure(logits, material.val.targets, material.snapshot.classes, masked=material.masked)
    if metrics.balanced_accuracy < trial.metrics.balanced_accuracy:
        return trial
    heads.apply(trial.network, start.layers, head)
    note = (
        f"The classifier was balanced anew: {trial.metrics.balanced_accuracy:.3f} -> {metrics.balanced_accuracy:.3f}."
    )
    return replace(
        trial, val_logits=logits, metrics=metrics, seconds=time.perf_counter() - began_s, notes=(*trial.notes, note)
    )


# ---------------------------------------------------------------- small parts


def _trial(
    material: Material,
    settled: Settled,
    network: nn.Module,
    val_logits: Tensor,
    *,
    began_s: float,
    frozen: tuple[str, ...],
) -> Trial:
    targets, classes = material.val.targets, material.snapshot.classes
    metrics = evaluation.measure(val_logits, targets, classes, masked=material.masked)
    share = metrics.balanced_accuracy
    return Trial(
        strategy=settled.strategy,  # type: ignore[arg-type]  # one of the three
        network=network,
        val_logits=evaluation.mask(val_logits, material.masked),
        metrics=metrics,
        settled=settled,
        standard_error=math.sqrt(share * (1 - share) / len(targets)),
        seconds=time.perf_counter() - began_s,
        frozen=frozen,
    )


def _settled(material: Material, recipe: Recipe, strategy: Strategy) -> Settled:
    return recipes.settle(
        recipe,
        num_train=len(material.train),
        num_classes=len(material.snapshot.present()),
        kind=material.start.layers.kind,
        strategy=strategy,
    )


def _read_pictures(workshop: Workshop, preprocess: Preprocess, part: Part) -> PixelCache:
    cache = PixelCache(
        [source(example) for example in part.examples],
        fetch=workshop.fetch,
        limits=workshop.limits,
        preprocess=preprocess,
        max_bytes=workshop.pixel_cache_bytes,
        on_lost=lambda lost: log.warning("%s was lost during training: %s", lost.reference, lost.reason),
    )
    cache.fill(workshop.pool)
    return cache


def _forward(workshop: Workshop, preprocess: Preprocess, network: nn.Module, pictures: _Pictures) -> Tensor:
    def batches() -> Iterator[Tensor]:
        for first in range(0, len(pictures), workshop.batch_size):
            rows = range(first, min(first + workshop.batch_size, len(pictures)))
            yield torch.stack([pictures.eval(row) for row in rows])

    return evaluation.forward(network, preprocess, batches(), workshop.device)
