"""Takes the features that a frozen backbone gives for labelled images.

Gives how well they tell the classes apart, at a fixed number of labels, beside what chance and colours would do.
Knows nothing of networks or files, or of what is done about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import RecipeInvalid, SnapshotInvalid
from pipeline.learning import draws, nearest, ridge, transferability

#: brightness levels that one bin of a colour histogram holds
BIN_WIDTH = 8
#: images of each class that the cap on examples leaves, if it has them: the most shots and some to judge them by
LEAST_PER_CLASS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePolicy:
    """How the probe measures (science 1.2)."""

    #: labels per class of the few-shot scores
    shots: tuple[int, ...] = (1, 5, 10)
    #: which of `shots` is the similarity; the same for every amount of data, else it would measure that too
    axis: int = 5
    #: random draws of each number of shots
    num_resamples: int = 10
    #: neighbours asked, at most; fewer where a class is small
    num_neighbours: int = 20
    #: shuffles of the labels that show what chance reaches
    num_permutations: int = 100
    #: of the ridge classifier's cross-validation
    num_folds: int = 5
    #: distinct images probed at most, drawn evenly from the classes' shares
    max_examples: int = 2000
    #: relative difference of two images' features below which they count as one image
    same: float = 1e-4

    def __post_init__(self) -> None:
        counts = (*self.shots, self.num_resamples, self.num_neighbours, self.num_permutations, self.max_examples)
        if not self.shots or min(counts) < 1 or self.num_folds < 2:
            raise RecipeInvalid("The probe's numbers must be at least 1, and num_folds at least 2.")
        if self.axis not in self.shots:
            raise RecipeInvalid(f"axis is {self.axis}, which is not one of the shots {self.shots}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shots:
    """What a few labels per class achieve: the nearest class mean of normalised features."""

    #: labels per class
    num: int
    #: (balanced accuracy - 1/C) / (1 - 1/C): 0 is chance, 1 is perfect; mean over the resamples
    mean: float
    #: standard deviation over the resamples
    std: float
    #: classes with more images than that; the others are left out
    num_classes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """What the probe measured."""

    #: labelled images given
    num: int
    #: distinct images the figures are of
    num_used: int
    #: features per image
    dim: int
    num_classes: int
    shots: tuple[Shots, ...]
    #: few-shot score on the similarity axis: that of the policy's `axis`, or the most shots below that can be had
    score: float
    #: labels per class of `score`
    score_shots: int
    #: balanced accuracy of the nearest neighbours, leave one out
    knn: float
    #: the same with shuffled labels: mean and 95th percentile
    null_mean: float
    null_q95: float
    #: balanced accuracy of ridge regression, out of fold
    ridge: float
    #: a diagnostic only: nothing is decided by it
    logme: float
    #: `score` of a randomly initialised copy of the backbone, None if not measured
    control_random: float | None = None
    #: `score` of colour histograms, None if not measured
    control_histogram: float | None = None
    #: `score` less the better of the controls: what pretraining adds; None if neither was measured
    gain: float | None = None
    #: median distance of the images' BatchNorm statistics to the stored ones, None if not measured; a diagnostic
    bn_distance: float | None = None

    @property
    def has_signal(self) -> bool:
        """Whether the neighbours beat shuffled labels."""
        return self.knn > self.null_q95


def probe(
    features: Tensor,
    targets: Tensor,
    num_classes: int,
    policy: ProbePolicy | None = None,
    *,
    random_features: Tensor | None = None,
    histogram_features: Tensor | None = None,
    bn_distance: float | None = None,
    seed: int = 0,
) -> Similarity:
    """Measure how well frozen features tell the classes apart (science 1.2).

    `features` [N, D] pooled penultimate activations, `targets` [N] class numbers below `num_classes`. The controls'
    features are of the same images in the same order: of a randomly initialised copy of the backbone [N, E], and
    `histograms` [N, 96]. Images given twice count once, so repeating the data changes nothing. Raise
    SnapshotInvalid unless two classes have two images each.
    """
    policy = policy or ProbePolicy()
    _check(features, targets, num_classes)
    kept = _capped(targets, nearest.distinct(features, targets, policy.same), policy.max_examples, seed)
    chosen, labels = features[kept].double(), targets[kept]
    _check_enough(labels)
    shots = _shots(chosen, labels, policy, seed)
    axis = _on_axis(shots, policy.axis, int((torch.bincount(labels) > 0).sum()))
    neighbours = nearest.neighbours(chosen, labels, policy.num_neighbours)
    shuffled = nearest.null(neighbours, labels, policy.num_permutations, seed)
    controls = [
        None if given is None else few_shots(given[kept], labels, axis.num, policy.num_resamples, seed).mean
        for given in (random_features, histogram_features)
    ]
    measured = [control for control in controls if control is not None]
    return Similarity(
        num=len(features),
        num_used=len(kept),
        dim=features.shape[1],
        num_classes=int((torch.bincount(labels) > 0).sum()),
        shots=shots,
        score=axis.mean,
        score_shots=axis.num,
        knn=nearest.knn(neighbours, labels),
        null_mean=float(shuffled.mean()),
        null_q95=float(shuffled.quantile(0.95)),
        ridge=ridge.cross_validate(chosen, labels, num_folds=policy.num_folds, seed=seed),
        logme=transferability.logme(chosen, labels),
        control_random=controls[0],
        control_histogram=controls[1],
        gain=axis.mean - max(measured) if measured else None,
        bn_distance=bn_distance,
    )


def few_shots(features: Tensor, targets: Tensor, num_shots: int, num_resamples: int, seed: int) -> Shots:
    """Draw `num_shots` images per class, classify the others by the nearest class mean, and again.

    `features` [N, D], `targets` [N]. Classes without an image more than that are left out; at least two must stay.
    """
    labels = draws.renumbered(targets)
    large = torch.bincount(labels) > num_shots
    rows = large[labels]
    labels = draws.renumbered(labels[rows])
    unit = F.normalize(features[rows].double(), dim=1)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.tensor([_resample(unit, labels, num_shots, generator) for _ in range(num_resamples)])
    return Shots(
        num=num_shots,
        mean=float(scores.mean()),
        std=float(scores.std(correction=0)),
        num_classes=int(large.sum()),
    )


def histograms(images_NCHW: Tensor) -> Tensor:  # noqa: N803
    """Give each uint8 image's share of pixels in 32 levels of brightness per channel: [N, 32 C] fp32."""
    num, channels, height, width = images_NCHW.shape
    num_bins = 256 // BIN_WIDTH
    bins = images_NCHW.reshape(num, channels, height * width).long() // BIN_WIDTH
    counts = torch.zeros(num, channels, num_bins, device=images_NCHW.device)
    counts.scatter_add_(2, bins, torch.ones_like(bins, dtype=counts.dtype))
    return (counts / (height * width)).flatten(1)


def _check(features: Tensor, targets: Tensor, num_classes: int) -> None:
    if not len(targets):
        raise SnapshotInvalid("There are no images to probe; label some of two classes.")
    if int(targets.max()) >= num_classes:
        raise SnapshotInvalid(f"There are {num_classes} classes, and a target of {int(targets.max())}.")
    num_broken = int((~features.isfinite().all(1)).sum())
    if num_broken:
        raise SnapshotInvalid(f"The features of {num_broken} images are not finite; the backbone's weights are broken.")


def _check_enough(targets: Tensor) -> None:
    if int((torch.bincount(targets) >= 2).sum()) < 2:
        raise SnapshotInvalid("The probe needs two classes with two different images each; label more.")


def _capped(targets: Tensor, rows: Tensor, most: int, seed: int) -> Tensor:
    labels = targets[rows]
    num = torch.bincount(labels)
    most = max(most, LEAST_PER_CLASS * int((num > 0).sum()))
    if len(rows) <= most:
        return rows
    return rows[torch.sort(draws.even_order(labels, seed, least=LEAST_PER_CLASS)[:most]).values]


def _shots(features: Tensor, targets: Tensor, policy: ProbePolicy, seed: int) -> tuple[Shots, ...]:
    num = torch.bincount(targets)
    possible = [shots for shots in policy.shots if int((num > shots).sum()) >= 2]
    if not possible:
        raise SnapshotInvalid(f"No two classes have more than {min(policy.shots)} images; label more.")
    return tuple(few_shots(features, targets, shots, policy.num_resamples, seed) for shots in possible)


def _on_axis(shots: tuple[Shots, ...], axis: int, num_classes: int) -> Shots:
    # Few shots of most classes say more of the task than many shots of a few.
    wide = [found for found in shots if found.num <= axis and 2 * found.num_classes >= num_classes]
    return max(wide or shots[:1], key=lambda found: found.num)


def _resample(unit: Tensor, labels: Tensor, num_shots: int, generator: torch.Generator) -> float:
    is_shot = draws.places(labels, generator) < num_shots
    num_classes = int(labels.max()) + 1
    means = torch.zeros(num_classes, unit.shape[1], dtype=unit.dtype)
    means.index_add_(0, labels[is_shot], unit[is_shot]).div_(num_shots)
    # Nearest by Euclid: |x - m|^2 = |x|^2 - 2 x m + |m|^2, and |x|^2 is the same for all m.
    predicted = (unit[~is_shot] @ means.T - means.square().sum(1) / 2).argmax(1)
    chance = 1 / num_classes
    return (ridge.balanced_accuracy(predicted, labels[~is_shot]) - chance) / (1 - chance)
