"""The strength of a head is chosen by images it was not fitted on."""

from __future__ import annotations

import pytest
import torch

from pipeline.learning import draws, heads, strengths
from tests.pipeline.learning.clusters import clusters


@pytest.mark.parametrize(("num", "num_folds"), [(103, 5), (40, 3), (7, 5)])
def test_folds_have_every_class_as_evenly_as_can_be(num: int, num_folds: int) -> None:
    targets = torch.tensor([0] * (num // 2) + [1] * (num // 3) + [2] * (num - num // 2 - num // 3))
    folds = draws.folds(targets, num_folds, 0)
    for number in (0, 1, 2):
        counts = torch.bincount(folds[targets == number], minlength=num_folds)
        assert int(counts.max() - counts.min()) <= 1
    sizes = torch.bincount(folds, minlength=num_folds)
    assert int(sizes.max() - sizes.min()) <= 1
    assert torch.equal(folds, draws.folds(targets, num_folds, 0))
    assert not torch.equal(folds, draws.folds(targets, num_folds, 1))


def test_overlapping_classes_ask_for_a_stronger_head_than_clear_ones() -> None:
    features, targets = clusters(num=200, dim=100, num_classes=4, separation=2.5)
    found = heads.choose_l2(features, targets, 4)
    assert [row.l2 for row in found.tried] == sorted(strengths.GRID, reverse=True)
    assert found.l2 >= 30.0
    assert 0.75 < found.chosen.balanced_accuracy < 0.85
    best = max(found.tried, key=lambda row: row.balanced_accuracy)
    equal = [row for row in found.tried if row.balanced_accuracy >= best.balanced_accuracy - best.standard_error]
    assert found.chosen == min(equal, key=lambda row: row.nll)
    assert len(equal) > 1
    features, targets = clusters(num=200, dim=100, num_classes=4, separation=8.0)
    assert heads.choose_l2(features, targets, 4).l2 < 30.0


def test_probabilities_are_of_heads_that_never_saw_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(120, 200, generator=generator), torch.arange(120) % 3
    found = heads.choose_l2(features, targets, 3, grid=(0.3,))
    assert float(found.probabilities.sum(dim=1).sub(1).abs().max()) < 1e-5
    # There is nothing to learn here, and a fit would be perfect.
    assert float((found.probabilities.argmax(dim=1) == targets).float().mean()) < 0.5
    head = heads.fit(features, targets, 3, l2=0.3)
    assert torch.equal(heads.logits(head, features).argmax(dim=1), targets)
    for fold in range(heads.NUM_FOLDS):
        inside = found.folds != fold
        own = heads.logits(heads.fit(features[inside], targets[inside], 3, l2=0.3), features[~inside])
        # Not to the bit: they are standardised with the other folds.
        assert float((own.softmax(dim=1) - found.probabilities[~inside]).abs().mean()) < 0.02


def test_the_same_seed_gives_the_same_choice_and_bits() -> None:
    features, targets = clusters(num=90, dim=20, num_classes=3, separation=2.0)
    first, second = (heads.choose_l2(features, targets, 3, seed=4) for _ in range(2))
    assert first.chosen == second.chosen
    assert torch.equal(first.probabilities, second.probabilities)


def test_of_many_images_some_are_compared_and_all_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strengths, "MOST_COMPARED", 100)  # a smaller limit, so that few images are many
    features, targets = clusters(num=450, dim=10, num_classes=3, separation=4.0)
    found = heads.choose_l2(features, targets, 3)
    assert found.probabilities.shape == (450, 3)
    assert float(found.probabilities.sum(dim=1).min()) > 0.99
    accuracy = float((found.probabilities.argmax(dim=1) == targets).float().mean())
    assert found.chosen.balanced_accuracy == pytest.approx(accuracy, abs=0.01)


def test_a_class_with_one_image_and_a_removed_class_are_no_obstacle() -> None:
    features, targets = clusters(num=60, dim=10, num_classes=3, separation=6.0)
    kept = targets != 1
    features, targets = torch.cat([features[kept], torch.ones(1, 10)]), torch.cat([targets[kept], torch.tensor([3])])
    found = heads.choose_l2(features, targets, 4, is_balanced=True, removed=[1])
    assert float(found.probabilities[:, 1].abs().max()) == 0.0
    assert float((found.probabilities.argmax(dim=1) == targets).float().mean()) > 0.95
