"""Takes features [N, D] of labelled images.

Gives a linear head that classifies them: fitted, chosen by cross-validation, balanced, grown by a class.
Knows nothing of images, of where features come from, or of how a backbone is trained.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.errors import RecipeInvalid
from pipeline.learning import layers as parts
from pipeline.learning import regression
from pipeline.learning.layers import Layers
from pipeline.learning.regression import Solution, Space, class_weights
from pipeline.learning.strengths import GRID, NUM_FOLDS, CrossValidated, Strength, choose_l2

__all__ = ["GRID", "NUM_FOLDS", "CrossValidated", "Head", "Strength", "adjust", "apply", "balance", "choose_l2",
           "class_weights", "fit", "imprint", "logits", "of"]  # fmt: skip

#: numbers in the features above which a fit is done in fp32: one gigabyte in fp64
MOST_PRECISE = 2**27
#: a removed class gets this many logits less than any training image got for any class
REMOVED_GAP = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """A linear layer on raw features: logits = features @ weight.T + bias."""

    #: fp32 [C, D]
    weight: Tensor
    #: fp32 [C]
    bias: Tensor
    #: whether its classes were given equal weight, in the fit or afterwards
    is_balanced: bool = False

    @property
    def num_classes(self) -> int:
        """Number of rows."""
        return len(self.bias)


def logits(head: Head, features: Tensor) -> Tensor:
    """Give the logits [N, C] of features [N, D]."""
    return features.float() @ head.weight.T + head.bias


def fit(
    features: Tensor,
    targets: Sequence[int] | Tensor,
    num_classes: int,
    *,
    l2: float,
    class_weights: Tensor | None = None,
    removed: Collection[int] = (),
) -> Head:
    """Fit multinomial logistic regression by L-BFGS: sum of w_y * cross-entropy + l2 / 2 * |W|^2.

    W are weights on standardised features [N, D]; the scaling is folded into the head. Starts at zero, so the same
    data give the same head. Raise SnapshotInvalid if a class that is not `removed` has no example: nothing is
    trained on a part of the classes.
    """
    rows, kept = regression.check(features, targets, num_classes, removed)
    space = Space.of(features, torch.float64 if features.numel() <= MOST_PRECISE else torch.float32)
    start = Solution.zeros(len(kept), space)
    weights = None if class_weights is None else class_weights[rows].to(space.coordinates.dtype)
    compact = torch.searchsorted(kept, rows)
    solution = regression.solve(space.coordinates, compact, weights, start, variances=space.variances, l2=l2)
    weight, bias = space.raw(solution)
    if len(kept) < num_classes:
        lowest = float(solution.logits(space.coordinates).min())
        weight, bias = _with_removed(weight, bias, kept, num_classes, lowest)
    return Head(weight=weight, bias=bias, is_balanced=class_weights is not None)


def balance(
    features: Tensor, targets: Sequence[int] | Tensor, num_classes: int, *, l2: float, removed: Collection[int] = ()
) -> Head:
    """Fit with classes of equal weight, as class-balanced sampling would (cRT, Kang et al. 2020).

    The features come from natural sampling: only the classifier is balanced.
    """
    weights = class_weights(targets, num_classes)
    return fit(features, targets, num_classes, l2=l2, class_weights=weights, removed=removed)


def adjust(head: Head, targets: Sequence[int] | Tensor, tau: float = 1.0) -> Head:
    """Subtract tau * ln(share of the class in training) from each logit (Menon et al. 2021, post hoc).

    Raise RecipeInvalid for a head that is balanced already: twice would favour rare classes.
    """
    if head.is_balanced:
        raise RecipeInvalid("The head's classes are balanced already; adjusting its logits would do so twice.")
    counts = torch.bincount(torch.as_tensor(targets), minlength=head.num_classes).float()
    shift = torch.where(counts > 0, (counts / counts.sum()).clamp(min=1e-12).log(), 0)
    return replace(head, bias=head.bias - tau * shift, is_balanced=True)


def imprint(
    head: Head,
    features: Tensor,
    targets: Sequence[int] | Tensor,
    num_classes: int,
    *,
    removed: Collection[int] = (),
) -> Head:
    """Append a row per new class: the mean direction of its features (weight imprinting, Qi et al. 2018).

    Its norm and bias are the medians of the old rows, and features are standardised: measured on sign-digits10,
    nine classes and a tenth, it finds 0.91 of the new and keeps 0.89 of the old (0.94 before), where raw features,
    all positive, find 1.0 of the new and keep none. Old rows stay bit-equal. `features` are those of all classes;
    raise SnapshotInvalid otherwise.
    """
    rows, kept = regression.check(features, targets, num_classes, removed)
    mean, scale = regression.moments(features)
    old = kept[kept < head.num_classes]
    weight = head.weight[old].double() * scale
    norm, bias = weight.norm(dim=1).median(), (head.bias[old].double() + head.weight[old].double() @ mean).median()
    directions = normalize((features.double() - mean) / scale, dim=1)
    grown, biases = [head.weight], [head.bias]
    for number in range(head.num_classes, num_classes):
        row = norm * normalize(directions[rows == number].mean(dim=0), dim=0) / scale
        grown.append(row.float()[None])
        biases.append((bias - row @ mean).float()[None])
    return replace(head, weight=torch.cat(grown), bias=torch.cat(biases))


def of(network: nn.Module, layers: Layers) -> Head:
    """Give a copy of the head that the network has."""
    linear = parts.head_of(network, layers)
    return Head(weight=linear.weight.detach().float().cpu().clone(), bias=linear.bias.detach().float().cpu().clone())


def apply(network: nn.Module, layers: Layers, head: Head) -> None:
    """Put the head into the network, whatever number of classes it had."""
    if parts.head_of(network, layers).out_features != head.num_classes:
        parts.replace_head(network, layers, head.num_classes)
    linear = parts.head_of(network, layers)
    with torch.no_grad():
        linear.weight.copy_(head.weight)
        linear.bias.copy_(head.bias)


def _with_removed(weight: Tensor, bias: Tensor, kept: Tensor, num_classes: int, lowest: float) -> tuple[Tensor, Tensor]:
    """Give removed classes back their rows, so that no number moves; none of them can win."""
    weights = torch.zeros(num_classes, weight.shape[1])
    biases = torch.full((num_classes,), lowest - REMOVED_GAP)
    weights[kept], biases[kept] = weight, bias
    return weights, biases
