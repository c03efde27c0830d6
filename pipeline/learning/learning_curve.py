"""Takes the features of labelled images.

Gives how a head's error falls as labels are added, and how many a wanted accuracy would take.
Knows nothing of networks, or of what is trained in the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import SnapshotInvalid
from pipeline.learning import draws, ridge

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
#: exponents tried: each step is 0.7 %, far below what the points can tell apart
EXPONENTS = np.geomspace(0.05, 3.0, 600)
#: refits on resampled points, for the interval
NUM_RESAMPLES = 200
#: images that a curve is measured on at most
MAX_EXAMPLES = 2000
#: beyond this many images an estimate is no number any more
FAR = 1e7


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement."""

    #: training images
    num: int
    #: 1 - balanced accuracy
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """error(n) = floor + scale * n ** -exponent."""

    floor: float
    scale: float
    exponent: float

    def error(self, num: float) -> float:
        """Give the error with `num` training images."""
        return float(self.floor + self.scale * num**-self.exponent)

    def num_for(self, error: float) -> float:
        """Give the training images that reach an error; infinitely many if none do."""
        if error <= self.floor or self.scale <= 0:
            return 0.0 if self.scale <= 0 and error > self.floor else math.inf
        # By logarithms: a shallow curve asks for more images than a float can count.
        power = math.log(self.scale / (error - self.floor)) / self.exponent
        return math.exp(power) if power < math.log(FAR) else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """How many training images would reach a target."""

    num: int
    #: 90 % interval over resampled points; `high` is None where some of them never reach it
    low: int
    high: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """How the error falls with the number of training images."""

    points: tuple[Point, ...]
    law: PowerLaw
    #: the laws of resampled points
    resampled: tuple[PowerLaw, ...]

    def needed(self, error: float) -> Needed | None:
        """Give the training images that would bring the error down to `error`; None: not reachable this way."""
        num = self.law.num_for(error)
        if not math.isfinite(num):
            return None
        reached = [min(law.num_for(error), FAR) for law in self.resampled]
        # Values that occur, not values between: half way to infinity is no number.
        low, high = np.quantile(reached, [0.05, 0.95], method="inverted_cdf").tolist()
        return Needed(
            num=math.ceil(num),
            low=math.ceil(min(low, num)),
            high=math.ceil(max(high, num)) if high < FAR else None,
        )

    def sentence(self, accuracy: float) -> str:
        """Say how many training images a balanced accuracy would take, for a person."""
        needed = self.needed(1 - accuracy)
        goal = f"a balanced accuracy of {accuracy:.2f}"
        if needed is None:
            best = 1 - self.law.floor
            return f"More labels alone will not reach {goal}: a head on these features levels off near {best:.2f}."
        span = f"{_told(needed.low)} to {_told(needed.high)}" if needed.high else f"{_told(needed.low)} or far more"
        return f"{goal[0].upper()}{goal[1:]} would take about {_told(needed.num)} training images ({span})."


def fit(points: Sequence[Point], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> LearningCurve:
    """Fit the power law to points of three sizes or more by least squares; raise SnapshotInvalid for fewer.

    The interval comes from resampling the points within each size.
    """
    sizes = np.array([point.num for point in points], dtype=np.float64)
    errors = np.array([point.error for point in points])
    if len(set(sizes.tolist())) < 3:
        raise SnapshotInvalid("A learning curve needs points of three sizes; label more images.")
    rng = np.random.default_rng(seed)
    resampled = (errors[_resample(sizes, rng)] for _ in range(num_resamples))
    return LearningCurve(
        points=tuple(points), law=_law(sizes, errors), resampled=tuple(_law(sizes, drawn) for drawn in resampled)
    )


def measure(
    features: Tensor, targets: Tensor, *, num_sizes: int = 5, num_repeats: int = 5, seed: int = 0
) -> LearningCurve:
    """Measure the error of a ridge head at log-spaced numbers of training images, and fit the curve.

    `features` [N, D], `targets` [N]; each repeat is judged on a fold of its own that no size of it trains on.
    Raise SnapshotInvalid where there are too few images for three sizes.
    """
    rows = draws.even_order(targets, seed)[:MAX_EXAMPLES]
    chosen, labels = features[rows], draws.renumbered(targets[rows])
    fold_of = draws.folds(labels, num_repeats, seed)
    most = len(labels) - int(torch.bincount(fold_of).max())
    sizes = _sizes(2 * (int(labels.max()) + 1), most, num_sizes)
    points = [
        point for repeat in range(num_repeats) for point in _points(chosen, labels, fold_of == repeat, sizes, repeat)
    ]
    return fit(points, seed=seed)


def _told(num: int) -> str:
    # Two digits are more than the curve knows.
    scale = 10 ** max(0, len(str(num)) - 2)
    return f"{-(-num // scale) * scale:,}"


def _points(features: Tensor, labels: Tensor, held_out: Tensor, sizes: Sequence[int], seed: int) -> list[Point]:
    training = torch.nonzero(~held_out).squeeze(1)
    training = training[draws.even_order(labels[training], seed)]
    points = []
    for size in sizes:
        rows = training[:size]
        predicted = ridge.fit_predict(features[rows], labels[rows], features[held_out])
        points.append(Point(num=size, error=1 - ridge.balanced_accuracy(predicted, labels[held_out])))
    return points


def _sizes(least: int, most: int, num: int) -> list[int]:
    if most < least:
        raise SnapshotInvalid(f"A learning curve needs {least} training images and more; label more.")
    return sorted({round(size) for size in np.geomspace(least, most, num).tolist()})


def _resample(sizes: Floats, rng: np.random.Generator) -> Indices:
    drawn = np.arange(len(sizes))
    for size in np.unique(sizes):
        same = np.flatnonzero(sizes == size)
        drawn[same] = rng.choice(same, len(same))
    return drawn


def _law(sizes: Floats, errors: Floats) -> PowerLaw:
    # For each exponent the best floor and scale are a straight line's, kept from going below zero.
    powers = sizes[None, :] ** -EXPONENTS[:, None]
    centred = powers - powers.mean(1, keepdims=True)
    scales = np.maximum(centred @ errors / (centred**2).sum(1), 0)
    floors = errors.mean() - scales * powers.mean(1)
    is_below = floors < 0
    scales[is_below] = (powers @ errors / (powers**2).sum(1))[is_below]
    floors[is_below] = 0
    misses = ((errors - floors[:, None] - scales[:, None] * powers) ** 2).sum(1)
    best = int(misses.argmin())
    return PowerLaw(floor=float(floors[best]), scale=float(scales[best]), exponent=float(EXPONENTS[best]))
