"""Draws are fair to every class, and the same for the same seed."""

from __future__ import annotations

import torch

from pipeline.learning import draws

TARGETS = torch.tensor([3] * 40 + [0] * 20 + [7] * 3)


def test_classes_are_renumbered_without_gaps() -> None:
    assert draws.renumbered(torch.tensor([7, 0, 3, 3])).tolist() == [2, 0, 1, 1]


def test_the_places_of_a_class_are_a_permutation() -> None:
    found = draws.places(TARGETS, torch.Generator().manual_seed(1))
    for number, num in ((3, 40), (0, 20), (7, 3)):
        assert sorted(found[TARGETS.eq(number)].tolist()) == list(range(num))
    assert torch.equal(found, draws.places(TARGETS, torch.Generator().manual_seed(1)))
    assert not torch.equal(found, draws.places(TARGETS, torch.Generator().manual_seed(2)))


def test_folds_share_every_class_and_all_rows_evenly() -> None:
    found = draws.folds(TARGETS, 5, seed=0)
    assert max(torch.bincount(found).tolist()) - min(torch.bincount(found).tolist()) <= 1
    for number in (3, 0, 7):
        num = torch.bincount(found[TARGETS.eq(number)], minlength=5)
        assert int(num.max() - num.min()) <= 1


def test_small_classes_do_not_all_fill_the_first_fold() -> None:
    found = draws.folds(torch.arange(10), 5, seed=0)
    assert torch.bincount(found).tolist() == [2] * 5


def test_every_beginning_of_the_even_order_holds_the_classes_in_their_shares() -> None:
    order = draws.even_order(TARGETS, seed=0)
    assert sorted(order.tolist()) == list(range(63))
    for size in (9, 21, 42):
        num = torch.bincount(TARGETS[order[:size]], minlength=8)
        assert torch.allclose(num[[3, 0, 7]] / size, torch.tensor([40, 20, 3]) / 63, atol=0.1)


def test_the_even_order_begins_with_the_least_of_each_class() -> None:
    order = draws.even_order(TARGETS, seed=0, least=3)
    assert torch.bincount(TARGETS[order[:9]], minlength=8)[[3, 0, 7]].tolist() == [3, 3, 3]
