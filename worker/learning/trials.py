"""Takes what each strategy says of the validation images. Gives the one that is kept, and why.

Knows nothing of how any of them was trained.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.learning import evaluation, recipes
from pipeline.learning.epochs import Epoch
from pipeline.learning.layers import Strategy
from pipeline.learning.recipes import Recipe, Settled
from worker.learning.material import Material


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


def trial_of(
    material: Material,
    settled: Settled,
    network: nn.Module,
    val_logits: Tensor,
    *,
    began_s: float,
    frozen: tuple[str, ...],
) -> Trial:
    """Measure a network on the validation images, by its logits [V, C] of them."""
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


def settled_for(material: Material, recipe: Recipe, strategy: Strategy) -> Settled:
    """Decide what the recipe leaves open, for these images and this network."""
    return recipes.settle(
        recipe,
        num_train=len(material.train),
        num_classes=len(material.snapshot.present()),
        kind=material.start.layers.kind,
        strategy=strategy,
    )


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
