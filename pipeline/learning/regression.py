"""Takes features [N, D] and class numbers.

Gives the weights of multinomial logistic regression, by L-BFGS in the features' principal coordinates.
Knows nothing of heads, networks, or of why a strength was chosen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import SnapshotInvalid

#: steps of L-BFGS at most, and steps that it remembers
MAX_ITERATIONS, HISTORY = 1_000, 20
#: largest entry of the scaled gradient at which a fit in fp64 is done, and one in fp32, which only compares
TOLERANCE, ROUGH_TOLERANCE = 1e-7, 1e-4
#: share of the decrease that the slope promises, below which a step is too long; and the shortest step
LEAST_DECREASE, LEAST_LENGTH = 1e-4, 1e-6
#: p * (1 - p) of a class at most; it scales the steps, not the result
CURVATURE = 0.25
#: a direction with less than this share of the largest variance is rounding error
NO_VARIANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Space:
    """Features, standardised and turned to their principal axes.

    |W| is the same in any turned coordinates, so the solution is that of the standardised features; it is found in
    fewer steps here, where each axis can be scaled by its own curvature.
    """

    #: [N, R] in the fit's precision; R is min(N, D) at most
    coordinates: Tensor
    #: fp64 [R], of each coordinate
    variances: Tensor
    #: fp64 [D, R], orthonormal
    axes: Tensor
    #: fp64 [D], of the raw features
    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor, dtype: torch.dtype) -> Space:
        """Find the axes of fp32 features [N, D]; fits in fp64 agree to 1e-4 in logits, in fp32 to 1e-2."""
        mean, scale = moments(features)
        standard = (features.to(dtype) - mean.to(dtype)).div_(scale.to(dtype))
        variances, axes = _principal(standard)
        return cls(coordinates=standard @ axes.to(dtype), variances=variances, axes=axes, mean=mean, scale=scale)

    def raw(self, solution: Solution) -> tuple[Tensor, Tensor]:
        """Give the solution's weight [C, D] and bias [C] on raw features, fp32."""
        weight = solution.weight @ self.axes.T / self.scale
        return weight.float(), (solution.bias - weight @ self.mean).float()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """Weights on principal coordinates."""

    #: fp64 [C, R]
    weight: Tensor
    #: fp64 [C]
    bias: Tensor

    @classmethod
    def zeros(cls, num_classes: int, space: Space) -> Solution:
        """Give the solution of infinite strength without bias, where every fit starts."""
        size = len(space.variances)
        return cls(weight=torch.zeros(num_classes, size).double(), bias=torch.zeros(num_classes).double())

    def logits(self, coordinates: Tensor) -> Tensor:
        """Give the logits [N, C] of coordinates [N, R], in their precision."""
        dtype = coordinates.dtype
        return torch.addmm(self.bias.to(dtype), coordinates, self.weight.to(dtype).T)


def solve(
    coordinates: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    start: Solution,
    *,
    variances: Tensor,
    l2: float,
) -> Solution:
    """Minimise sum of weight * cross-entropy + l2 / 2 * |W|^2 over rows [n, R]; the bias is not shrunk."""
    num, num_classes = len(targets), len(start.bias)
    # What the curvature would be if every image were a coin toss: with axes scaled by its root, all steps are alike.
    steepness = (CURVATURE * variances + l2 / num).sqrt()

    def loss(flat: Tensor) -> tuple[Tensor, Tensor]:
        solution = _unscaled(flat, steepness, num_classes)
        log_probabilities = solution.logits(coordinates).log_softmax(dim=1)
        own = log_probabilities.gather(1, targets[:, None])[:, 0]
        slope = log_probabilities.exp_()
        slope[torch.arange(num), targets] -= 1
        if weights is not None:
            own, slope = own * weights, slope * weights[:, None]
        value = -own.double().mean() + l2 / (2 * num) * solution.weight.square().sum()
        by_weight = (slope.T @ coordinates).double() / num + l2 / num * solution.weight
        return value, torch.cat([(by_weight / steepness).reshape(-1), slope.double().mean(dim=0)])

    flat = torch.cat([(start.weight * steepness).reshape(-1), start.bias])
    tolerance = TOLERANCE if coordinates.dtype == torch.float64 else ROUGH_TOLERANCE
    return _unscaled(_minimum(loss, flat, tolerance), steepness, num_classes)


def _minimum(loss: Callable[[Tensor], tuple[Tensor, Tensor]], point: Tensor, tolerance: float) -> Tensor:
    """Follow a convex `loss`, which gives value and gradient, to where the gradient vanishes.

    L-BFGS (Nocedal and Wright, algorithm 7.5) of our own: scipy's waits for BLAS threads on a busy machine, and
    torch.optim's imports a compiler for three seconds.
    """
    value, gradient = loss(point)
    past: deque[tuple[Tensor, Tensor]] = deque(maxlen=HISTORY)
    for _ in range(MAX_ITERATIONS):
        if float(gradient.abs().max()) <= tolerance:
            break
        direction = _direction(gradient, past)
        length, slope = 1.0, float(gradient @ direction)
        new_value, new_gradient = loss(point + direction)
        while not new_value <= value + LEAST_DECREASE * length * slope:
            length /= 2
            if length < LEAST_LENGTH:  # all that is left is rounding
                return point
            new_value, new_gradient = loss(point + length * direction)
        step, change = length * direction, new_gradient - gradient
        if float(step @ change) > 0:  # always, but for rounding
            past.append((step, change))
        point, value, gradient = point + step, new_value, new_gradient
    return point


def _direction(gradient: Tensor, past: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Give minus the inverse Hessian, as far as past steps and changes of the gradient show it, times `gradient`."""
    direction, shares = -gradient, []
    for step, change in reversed(past):
        share = (step @ direction) / (step @ change)
        direction = direction - share * change
        shares.append(share)
    if past:
        step, change = past[-1]
        direction = direction * (step @ change) / (change @ change)
    for (step, change), share in zip(past, reversed(shares), strict=True):
        direction = direction + (share - (change @ direction) / (step @ change)) * step
    return direction


def check(
    features: Tensor, targets: Sequence[int] | Tensor, num_classes: int, removed: Collection[int]
) -> tuple[Tensor, Tensor]:
    """Give the targets int64 [N] and the numbers of the classes to fit, in order.

    Raise SnapshotInvalid for features that are not finite, for a class without an example that is not removed, and
    for an example of one that is.
    """
    rows = torch.as_tensor(targets, dtype=torch.int64)
    if features.ndim != 2 or len(features) != len(rows):
        raise ValueError(f"{len(rows)} targets need as many rows of features, not {list(features.shape)}.")
    if not features.isfinite().all():
        raise SnapshotInvalid("The features are not finite: the backbone's weights are unusable.")
    return rows, _kept(rows, num_classes, removed)


def class_weights(targets: Sequence[int] | Tensor, num_classes: int) -> Tensor:
    """Give weights [C] that make all classes count alike, with mean 1 over the examples; 0 for an empty class."""
    counts = torch.bincount(torch.as_tensor(targets), minlength=num_classes).double()
    weights = torch.where(counts > 0, counts.sum() / counts.clamp(min=1), 0)
    return (weights / (counts > 0).sum()).float()


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Give mean and deviation [D] in fp64; a feature that never varies has deviation 1."""
    wide = features.double()
    scale = wide.std(dim=0, correction=0)
    return wide.mean(dim=0), torch.where(scale > 1e-8, scale, 1.0)


def _unscaled(flat: Tensor, steepness: Tensor, num_classes: int) -> Solution:
    weight = flat[:-num_classes].view(num_classes, -1) / steepness
    return Solution(weight=weight, bias=flat[-num_classes:])


def _principal(standard: Tensor) -> tuple[Tensor, Tensor]:
    """Give the variances [R] and axes [D, R] of fp32 [N, D], by the smaller of its two products with itself."""
    num, size = standard.shape
    if num >= size:
        variances, axes = torch.linalg.eigh((standard.T @ standard).double() / num)
        kept = variances > NO_VARIANCE * variances[-1]
        return variances[kept], axes[:, kept]
    wide = standard.double()
    variances, rows = torch.linalg.eigh(wide @ wide.T / num)
    kept = variances > NO_VARIANCE * variances[-1]
    return variances[kept], wide.T @ rows[:, kept] / (num * variances[kept]).sqrt()


def _kept(targets: Tensor, num_classes: int, removed: Collection[int]) -> Tensor:
    """Give the classes to fit, in order; raise SnapshotInvalid if one has no example."""
    kept = [number for number in range(num_classes) if number not in removed]
    counts = torch.bincount(targets, minlength=num_classes)
    if len(counts) > num_classes or int(counts[list(removed)].sum()):
        raise SnapshotInvalid("An example is labelled with a class that does not exist, or was removed.")
    if missing := [number for number in kept if not counts[number]]:
        raise SnapshotInvalid(
            f"The classes number {', '.join(map(str, missing))} have no example; a head is fitted on all classes "
            "together, never on new labels alone."
        )
    if len(kept) < 2:
        raise SnapshotInvalid("There must be two classes at least to tell apart.")
    return torch.tensor(kept)
