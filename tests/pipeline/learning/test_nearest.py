"""Neighbours vote, shuffled labels show what chance reaches, and copies are found."""

from __future__ import annotations

import pytest
import torch

from pipeline.learning import nearest
from tests.pipeline.learning.clusters import clusters


@pytest.mark.parametrize(("num", "dim"), [(600, 64), (60, 512)], ids=["more images", "more features"])
def test_the_vote_rises_with_separation(num: int, dim: int) -> None:
    scores = []
    for separation in (0, 2, 4, 8):
        features, targets = clusters(num=num, dim=dim, num_classes=6, separation=separation)
        scores.append(nearest.knn(nearest.neighbours(features, targets), targets))
    assert scores == sorted(set(scores))


def test_an_image_is_not_its_own_neighbour_and_half_the_smallest_class_is_asked() -> None:
    features, _ = clusters(num=30, dim=8, num_classes=2, separation=1)
    targets = torch.tensor([0] * 24 + [1] * 6)
    found = nearest.neighbours(features, targets)
    assert found.shape == (30, 3)
    assert not (found == torch.arange(30)[:, None]).any()
    assert nearest.neighbours(features, targets, most=2).shape == (30, 2)
    assert nearest.neighbours(features[:3], torch.tensor([0, 0, 1])).shape == (3, 1)


def test_the_nearest_breaks_a_tie() -> None:
    neighbours = torch.tensor([[1, 2], [0, 2], [1, 0]])
    # The neighbours of image 0 are one of each class, the nearer of class 1.
    assert nearest.knn(neighbours, torch.tensor([1, 1, 0])) == 0.5


def test_shuffled_labels_stay_below_the_null_nineteen_times_in_twenty() -> None:
    features, targets = clusters(num=120, dim=32, num_classes=6, separation=4)
    num_below = 0
    for seed in range(100):
        shuffled = targets[torch.randperm(120, generator=torch.Generator().manual_seed(1000 + seed))]
        neighbours = nearest.neighbours(features, shuffled)
        q95 = nearest.null(neighbours, shuffled, seed=seed).quantile(0.95)
        num_below += nearest.knn(neighbours, shuffled) <= q95
    assert num_below >= 90
    assert nearest.knn(nearest.neighbours(features, targets), targets) > 0.5


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = clusters(num=50, dim=8, num_classes=5, separation=2)
    whole = nearest.neighbours(features, targets), nearest.distinct(features, targets, 1e-4)
    monkeypatch.setattr(nearest, "CHUNK", 7)
    assert torch.equal(nearest.neighbours(features, targets), whole[0])
    assert torch.equal(nearest.distinct(features, targets, 1e-4), whole[1])


def test_copies_count_once_in_whatever_order_and_rounding() -> None:
    features, targets = clusters(num=50, dim=8, num_classes=5, separation=2)
    kept = nearest.distinct(features, targets, 1e-4)
    assert sorted(kept.tolist()) == list(range(50))
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    many, labels = features.repeat(10, 1)[order], targets.repeat(10)[order]
    noisy = many * (1 + 1e-6 * torch.randn(500, 8, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(many[nearest.distinct(many, labels, 1e-4)], features[kept])
    assert torch.allclose(noisy[nearest.distinct(noisy, labels, 1e-4)], features[kept], rtol=1e-4)


def test_one_image_with_two_labels_counts_twice() -> None:
    assert len(nearest.distinct(torch.ones(4, 3), torch.tensor([0, 1, 0, 1]), 1e-4)) == 2
