"""Takes features [N, D] of labelled images.

Gives the strength of a head's regularisation, chosen by cross-validation, and what heads say of images they never saw.
Knows nothing of the head that is fitted in the end, or of networks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.learning import draws, regression
from pipeline.learning.regression import Solution, Space, class_weights

#: strengths that are tried, strongest first; l2 is 1 / C of scikit-learn's LogisticRegression
GRID = (3_000.0, 1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3)
NUM_FOLDS = 5
#: examples among which strengths are compared at most; more would not change the choice, only the time
MOST_COMPARED = 4_000


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
    #: of each example, int64 [N]
    folds: Tensor
    #: out of fold, fp32 [N, C]
    probabilities: Tensor

    @property
    def l2(self) -> float:
        """The strength chosen."""
        return self.chosen.l2


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
    rows, kept = regression.check(features, targets, num_classes, removed)
    compact = torch.searchsorted(kept, rows)
    folds = draws.folds(compact, num_folds, seed)
    # Standardised by all rows at once: the scaling sees held-out images, but never their labels.
    space = Space.of(features, torch.float32)
    some = draws.folds(compact, -(-len(rows) // MOST_COMPARED), seed + 1) == 0
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
    return CrossValidated(chosen=chosen, tried=tuple(tried), folds=folds, probabilities=full)


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
