"""The closed-form classifier says what refitting it would, and is honest about noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.learning import draws, ridge
from tests.pipeline.learning.clusters import clusters


def refitted(features: Tensor, targets: Tensor, fold_of: Tensor, penalty: float) -> Tensor:
    """Fit on all folds but one and predict that one, with the standardisation of all rows; unpenalised intercept."""
    standard = features.double() - features.double().mean(0)
    standard = standard / features.double().std(0, correction=0)
    strength = penalty * float(standard.square().sum()) / len(standard)
    hits = torch.nn.functional.one_hot(targets).double()
    predicted = torch.empty_like(targets)
    for fold in range(int(fold_of.max()) + 1):
        part = fold_of != fold
        centre, mean = standard[part].mean(0), hits[part].mean(0)
        rows = standard[part] - centre
        gram = rows.T @ rows + strength * torch.eye(rows.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(gram, rows.T @ (hits[part] - mean))
        predicted[~part] = ((standard[~part] - centre) @ weights + mean).argmax(1)
    return predicted


@pytest.mark.parametrize(("num", "dim"), [(90, 20), (45, 100)], ids=["more images", "more features"])
@pytest.mark.parametrize("penalty", [1e-3, 1e-1, 10.0])
def test_out_of_fold_is_what_refitting_says(num: int, dim: int, penalty: float) -> None:
    features, targets = clusters(num=num, dim=dim, num_classes=3, separation=1.5)
    expected = refitted(features, targets, draws.folds(targets, 5, 0), penalty)
    found = ridge.cross_validate(features, targets, num_folds=5, penalties=(penalty,), seed=0)
    assert found == pytest.approx(ridge.balanced_accuracy(expected, targets), abs=1e-12)


@pytest.mark.parametrize(("num", "dim"), [(600, 64), (60, 512)], ids=["more images", "more features"])
def test_accuracy_rises_with_separation(num: int, dim: int) -> None:
    scores = [
        ridge.cross_validate(*clusters(num=num, dim=dim, num_classes=6, separation=separation))
        for separation in (0, 2, 4, 8)
    ]
    assert scores == sorted(set(scores))


def test_noise_reads_as_chance() -> None:
    scores = [
        ridge.cross_validate(*clusters(num=60, dim=128, num_classes=6, separation=0, seed=seed), seed=seed)
        for seed in range(40)
    ]
    # The standard error of the mean is 0.008; choosing the penalty on the folds it is judged on reads 0.233.
    assert sum(scores) / 40 == pytest.approx(1 / 6, abs=0.02)


def test_the_strongest_penalty_wins_a_tie_and_an_easy_task_is_solved() -> None:
    features, targets = clusters(num=60, dim=10, num_classes=3, separation=50)
    assert ridge.cross_validate(features, targets) == 1.0


def test_class_numbers_may_have_gaps() -> None:
    features, targets = clusters(num=60, dim=10, num_classes=3, separation=50)
    gapped = torch.tensor([1, 4, 9])[targets]
    assert torch.equal(ridge.fit_predict(features[:30], gapped[:30], features[30:]), gapped[30:])
    assert ridge.cross_validate(features, gapped) == 1.0


def test_features_that_never_move_do_no_harm() -> None:
    features, targets = clusters(num=60, dim=10, num_classes=3, separation=50)
    still = torch.cat([features, torch.full((60, 2), 3.7)], dim=1)
    assert ridge.cross_validate(still, targets) == 1.0
    assert ridge.fit_predict(torch.ones(6, 4), torch.arange(6) % 2, torch.ones(2, 4)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("predicted", "targets", "expected"),
    [([0, 0, 0, 1], [0, 0, 0, 1], 1.0), ([0, 0, 0, 0], [0, 0, 0, 1], 0.5), ([5, 1], [2, 1], 0.5)],
    ids=["all right", "the small class missed", "a class that is not there"],
)
def test_balanced_accuracy_is_the_mean_recall(predicted: list[int], targets: list[int], expected: float) -> None:
    assert ridge.balanced_accuracy(torch.tensor(predicted), torch.tensor(targets)) == expected
