"""Takes a run's material and its playbook. Gives the plan: the probe's evidence, the lecture's cell, and what to train.

Knows nothing of how the plan is carried out. Only training images are looked at.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pipeline import backbones, errors
from pipeline.learning import draws, layers, learning_curve, pixels, similarity
from pipeline.learning.learning_curve import LearningCurve
from pipeline.learning.plan import Plan, Thresholds, decide
from pipeline.learning.similarity import ProbePolicy, Similarity
from pipeline.preprocess import Preprocess
from worker.learning.material import Material, Part, Start, features_of, source
from worker.learning.watch import Pace
from worker.learning.workshop import Workshop
from worker.playbook import Playbook

#: training images that the controls look at; more would not move a few-shot score
MOST_CONTROLLED = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The plan and what it rests on."""

    plan: Plan
    similarity: Similarity
    #: None where there are too few images for one
    curve: LearningCurve | None
    #: error that is wanted
    target_error: float
    #: what that would take, in one sentence
    labels_needed: str
    num_train: int
    #: training images of the median class
    num_per_class: float
    thresholds: Thresholds
    probe: ProbePolicy

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON values, for the ledger and for programs."""
        curve = None
        if self.curve is not None:
            needed = self.curve.needed(self.target_error)
            curve = {
                "points": [asdict(point) for point in self.curve.points],
                "law": asdict(self.curve.law),
                "target_error": self.target_error,
                "needed": asdict(needed) if needed else None,
            }
        return {**asdict(replace(self, curve=None)), "curve": curve}


def make_plan(workshop: Workshop, pace: Pace, material: Material, playbook: Playbook, *, is_forced: bool) -> Planned:
    """Measure and decide. Raises `RecipeInvalid` for a threshold that makes no sense, and `SnapshotInvalid`."""
    thresholds = _policy(Thresholds, playbook.plan, "plan")
    policy = _policy(ProbePolicy, playbook.probe, "probe")
    train = material.train
    num_classes = len(material.snapshot.classes)
    found = similarity.probe(train.features, train.targets, num_classes, policy, seed=pace.seed)
    pace.keep_going()
    found = _with_controls(workshop, pace, material, policy, found)
    counts = torch.bincount(train.targets)
    num_per_class = float(counts[counts > 0].double().median())
    curve = _curve(train.features, train.targets, pace.seed)
    needed = curve.sentence(playbook.target_accuracy) if curve else "There are too few images for a learning curve."
    plan = decide(
        len(train),
        num_per_class,
        found.score,
        found.gain,
        thresholds,
        has_signal=found.has_signal,
        labels_needed=needed,
        forced=is_forced,
    )
    return Planned(
        plan=plan,
        similarity=found,
        curve=curve,
        target_error=1 - playbook.target_accuracy,
        labels_needed=needed,
        num_train=len(train),
        num_per_class=num_per_class,
        thresholds=thresholds,
        probe=policy,
    )


def _with_controls(
    workshop: Workshop, pace: Pace, material: Material, policy: ProbePolicy, found: Similarity
) -> Similarity:
    """Score the same few shots on an untrained copy of the backbone and on colours: what does pretraining add?"""
    some = _some(material.train, pace.seed)
    network = _untrained(material.start, pace.seed)
    start = material.start
    untrained, kept, _ = features_of(workshop, pace, network, start.layers, start.preprocess, some.examples)
    if len(kept) < len(some):  # an image went missing between two looks
        return found
    colours = _colours(workshop, start.preprocess, some)
    scores = [
        similarity.few_shots(values, some.targets, found.score_shots, policy.num_resamples, pace.seed).mean
        for values in (some.features, untrained, colours)
    ]
    return replace(
        found, control_random=scores[1], control_histogram=scores[2], gain=scores[0] - max(scores[1], scores[2])
    )


def _some(train: Part, seed: int) -> Part:
    is_some = draws.folds(train.targets, -(-len(train) // MOST_CONTROLLED), seed) == 0
    examples = tuple(example for example, chosen in zip(train.examples, is_some.tolist(), strict=True) if chosen)
    return Part(examples=examples, features=train.features[is_some], targets=train.targets[is_some])


def _untrained(start: Start, seed: int) -> nn.Module:
    card = start.loaded.card
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = backbones.build(card.arch, num_classes=len(card.classes), options=card.arch_options)
    layers.freeze(network, start.layers, "head")
    return network


def _colours(workshop: Workshop, preprocess: Preprocess, some: Part) -> Tensor:
    read = pixels.read(
        [source(example) for example in some.examples],
        fetch=workshop.fetch,
        limits=workshop.limits,
        shape=preprocess.pixels,
        pool=workshop.pool,
        on_lost=lambda _: None,
    )
    return torch.cat([similarity.histograms(image[None]) for _, image in read])


def _curve(values: Tensor, targets: Tensor, seed: int) -> LearningCurve | None:
    try:
        return learning_curve.measure(values, targets, seed=seed)
    except errors.SnapshotInvalid:
        return None


Policy = TypeVar("Policy", Thresholds, ProbePolicy)


def _policy(kind: type[Policy], given: Mapping[str, Any], name: str) -> Policy:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    try:
        return kind(**values)
    except TypeError as wrong:
        raise errors.RecipeInvalid(f"The playbook's [{name}] makes no sense: {wrong}.") from None
