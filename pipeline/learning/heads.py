"""Takes features [N, D] of labelled images.

Gives a linear head that classifies them: fitted, chosen by cross-validation, balanced, grown by a class.
Knows nothing of images, of where features come from, or of how a backbone is trained.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.errors import RecipeInvalid, SnapshotInvalid
from pipeline.learning import layers as parts
from pipeline.learning import regression
from pipeline.learning.layers import Layers
from pipeline.learning.regression import Solution, Space

#: strengths that are tried, strongest first; l2 is 1 / C of scikit-learn's LogisticRegression
GRID = (3_000.0, 1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3)
NUM_FOLDS = 5
#: numbers in the features above which a fit is done in fp32: one gigabyte in fp64
MOST_PRECISE = 2**27
#: examples among which strengths are compared at most; more would not change the choice, only the time
MOST_COMPARED = 4_000
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """What cross-validation says of one strength."""

    l2: float
    #: mean over the folds
    balanced_accuracy: float
    #: standard error of that mean
    standard_error: float
    #: mean over all held-out examples
    nll: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CrossValidated:
    """The strength chosen, and what heads of that strength say of examples they were not fitted on."""

    chosen: Strength
    #: every strength tried, strongest first; where there are very many examples, on some of them
    tried: tuple[Strength, ...]
    #: out of fold, fp32 [N, C]
    probabilities: Tensor

    @property
    def l2(self) -> float:
        """The strength chosen."""
        return self.chosen.l2


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
    rows = _rows(features, targets)
    kept = _kept(rows, num_classes, removed)
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


def class_weights(targets: Sequence[int] | Tensor, num_classes: int) -> Tensor:
    """Give weights [C] that make all classes count alike, with mean 1 over the examples; 0 for an empty class."""
    counts = torch.bincount(torch.as_tensor(targets), minlength=num_classes).double()
    weights = torch.where(counts > 0, counts.sum() / counts.clamp(min=1), 0)
    return (weights / (counts > 0).sum()).float()


def adjust(head: Head, targets: Sequence[int] | Tensor, tau: float = 1.0) -> Head:
    """Subtract tau * ln(share of the class in training) from each logit (Menon et al. 2021, post hoc).

    Raise RecipeInvalid for a head that is balanced already: twice would favour rare classes.
    """
    if head.is_balanced:
        raise RecipeInvalid("The head's classes are balanced already; adjusting its logits would do so twice.")
    counts = torch.bincount(torch.as_tensor(targets), minlength=head.num_classes).float()
    shift = torch.where(counts > 0, (counts / counts.sum()).clamp(min=1e-12).log(), 0)
    return replace(head, bias=head.bias - tau * shift, is_balanced=True)


def imprint(head: Head, features: Tensor, targets: Sequence[int] | Tensor, num_classes: int) -> Head:
    """Append a row per new class: the mean direction of its features (weight imprinting, Qi et al. 2018).

    w = s * mean(f / |f|) and b = median old bias, where s is the median norm of the old rows and f are standardised
    features. Old rows stay bit-equal. `features` are those of all classes; raise SnapshotInvalid otherwise.
    """
    rows = _rows(features, targets)
    _kept(rows, num_classes, ())
    mean, scale = regression.moments(features)
    standard = (features.double() - mean) / scale
    weight = head.weight.double() * scale
    bias = (head.bias.double() + head.weight.double() @ mean).median()
    directions = nn.functional.normalize(standard, dim=1)
    new = [directions[rows == number].mean(dim=0) for number in range(head.num_classes, num_classes)]
    if not new:
        return head
    grown = torch.stack(new) * weight.norm(dim=1).median() / scale
    biases = bias - grown @ mean
    return replace(head, weight=torch.cat([head.weight, grown.float()]), bias=torch.cat([head.bias, biases.float()]))


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


# ---------------------------------------------------------------- cross-validation


def choose_l2(
    features: Tensor,
    targets: Sequence[int] | Tensor,
    num_classes: int,
    *,
    grid: Sequence[float] = GRID,
    num_folds: int = NUM_FOLDS,
    seed: int = 0,
    is_balanced: bool = False,
    removed: Collection[int] = (),
) -> CrossValidated:
    """Compare strengths by stratified cross-validation.

    Of those within one standard error of the best balanced accuracy, the one with the lowest NLL is chosen.
    Raise SnapshotInvalid if a class that is not `removed` has no example.
    """
    rows = _rows(features, targets)
    kept = _kept(rows, num_classes, removed)
    compact = torch.searchsorted(kept, rows)
    folds = stratified_folds(compact, num_folds, seed)
    # Standardised by all rows at once: the scaling sees held-out images, but never their labels.
    space = Space.of(features, torch.float32)
    some = stratified_folds(compact, -(-len(rows) // MOST_COMPARED), seed + 1) == 0
    strengths = sorted(grid, reverse=True)
    paths = _out_of_fold(space, some, compact, folds, len(kept), strengths, is_balanced)
    tried = [_strength(l2, found, compact[some], folds[some]) for l2, found in zip(strengths, paths, strict=True)]
    chosen = _best(tried)
    probabilities = paths[strengths.index(chosen.l2)]
    if not some.all():
        every = torch.ones_like(some)
        (probabilities,) = _out_of_fold(space, every, compact, folds, len(kept), [chosen.l2], is_balanced)
        chosen = _strength(chosen.l2, probabilities, compact, folds)
    full = torch.zeros(len(rows), num_classes)
    full[:, kept] = probabilities
    return CrossValidated(chosen=chosen, tried=tuple(tried), probabilities=full)


def stratified_folds(targets: Tensor, num_folds: int, seed: int) -> Tensor:
    """Give each example's fold, int64 [N]: every class spread as evenly as it can be; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(targets), generator=generator)
    # Sorted by class and dealt round: counting on from class to class keeps the folds' sizes within one.
    dealt = shuffled[torch.argsort(targets[shuffled], stable=True)]
    folds = torch.empty(len(targets), dtype=torch.int64)
    folds[dealt] = torch.arange(len(targets)) % num_folds
    return folds


def _out_of_fold(
    space: Space,
    some: Tensor,
    targets: Tensor,
    folds: Tensor,
    num_classes: int,
    strengths: Sequence[float],
    is_balanced: bool,
) -> list[Tensor]:
    """Give, per strength, the probabilities of `some` rows by solutions that were not fitted on them."""
    found = [torch.zeros(len(targets), num_classes) for _ in strengths]
    for fold in range(int(folds.max()) + 1):
        inside, outside = some & (folds != fold), some & (folds == fold)
        weights = class_weights(targets[inside], num_classes)[targets[inside]] if is_balanced else None
        rows, solution = space.coordinates[inside], Solution.zeros(num_classes, space)
        for l2, probabilities in zip(strengths, found, strict=True):
            # A strong solution is a start for a weaker one.
            solution = regression.solve(rows, targets[inside], weights, solution, variances=space.variances, l2=l2)
            probabilities[outside] = solution.logits(space.coordinates[outside]).softmax(dim=1)
    return [probabilities[some] for probabilities in found]


def _strength(l2: float, probabilities: Tensor, targets: Tensor, folds: Tensor) -> Strength:
    accuracies = torch.tensor(
        [
            _balanced_accuracy(probabilities[folds == fold], targets[folds == fold])
            for fold in range(int(folds.max()) + 1)
        ]
    )
    own = probabilities.gather(1, targets[:, None]).clamp(min=1e-12)
    return Strength(
        l2=l2,
        balanced_accuracy=float(accuracies.mean()),
        standard_error=float(accuracies.std() / len(accuracies) ** 0.5),
        nll=float(-own.log().mean()),
    )


def _best(tried: Sequence[Strength]) -> Strength:
    top = max(tried, key=lambda row: row.balanced_accuracy)
    floor = top.balanced_accuracy - top.standard_error
    return min((row for row in tried if row.balanced_accuracy >= floor), key=lambda row: row.nll)


def _balanced_accuracy(probabilities: Tensor, targets: Tensor) -> float:
    counts = torch.bincount(targets)
    right = torch.bincount(targets[probabilities.argmax(dim=1) == targets], minlength=len(counts))
    return float((right[counts > 0] / counts[counts > 0]).mean())


# ---------------------------------------------------------------- classes


def _rows(features: Tensor, targets: Sequence[int] | Tensor) -> Tensor:
    rows = torch.as_tensor(targets, dtype=torch.int64)
    if features.ndim != 2 or len(features) != len(rows):
        raise ValueError(f"{len(rows)} targets need as many rows of features, not {list(features.shape)}.")
    if not features.isfinite().all():
        raise SnapshotInvalid("The features are not finite: the backbone's weights are unusable.")
    return rows


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


def _with_removed(weight: Tensor, bias: Tensor, kept: Tensor, num_classes: int, lowest: float) -> tuple[Tensor, Tensor]:
    """Give removed classes back their rows, so that no number moves; none of them can win."""
    weights = torch.zeros(num_classes, weight.shape[1])
    biases = torch.full((num_classes,), lowest - REMOVED_GAP)
    weights[kept], biases[kept] = weight, bias
    return weights, biases
