"""Losses give the numbers of their papers, and parts of a batch add up to the whole."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.learning import losses
from tests.pipeline.learning import trainees

CPU = torch.device("cpu")
TARGETS = [0, 0, 0, 0, 1, 1, 2, 0]


def loss_of(**recipe: object) -> losses.Loss:
    return losses.build(trainees.settled(**recipe), TARGETS, 3, CPU)


def logits_of(seed: int = 0) -> Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))


def targets_of() -> Tensor:
    return losses.one_hot(torch.tensor(TARGETS), 3)


def mean(loss: losses.Loss, logits: Tensor, targets: Tensor) -> float:
    return float(loss.each(logits, targets).sum() / loss.weight(targets))


def test_cross_entropy_is_torchs() -> None:
    logits, smooth = logits_of(), loss_of(label_smoothing=0.1)
    expected = F.cross_entropy(logits, torch.tensor(TARGETS), label_smoothing=0.1)
    assert mean(smooth, logits, targets_of()) == pytest.approx(float(expected), abs=1e-6)


def test_weighted_cross_entropy_weighs_rare_classes_as_scikit_learn_does() -> None:
    loss = loss_of(loss="weighted_cross_entropy")
    assert loss.class_weights.tolist() == pytest.approx([8 / 15, 8 / 6, 8 / 3])
    assert float(loss.weight(targets_of())) == pytest.approx(8.0)
    expected = F.cross_entropy(logits_of(), torch.tensor(TARGETS), weight=loss.class_weights)
    assert mean(loss, logits_of(), targets_of()) == pytest.approx(float(expected), abs=1e-6)


def test_focal_loss_forgives_what_is_nearly_right() -> None:
    # p = 0.9: cross-entropy 0.105361, times (1 - 0.9)^2 (Lin et al. 2017).
    logits = torch.tensor([[math.log(0.9), math.log(0.06), math.log(0.04)]])
    loss = loss_of(loss="focal", focal_gamma=2.0)
    assert float(loss.each(logits, targets_of()[:1])) == pytest.approx(0.00105361, rel=1e-4)
    plain = loss_of(loss="focal", focal_gamma=0.0, label_smoothing=0.1)
    smooth = loss_of(label_smoothing=0.1)
    assert torch.allclose(plain.each(logits_of(), targets_of()), smooth.each(logits_of(), targets_of()), atol=1e-6)


def test_focal_loss_has_a_gradient_where_it_is_quite_sure() -> None:
    logits = torch.tensor([[100.0, 0.0, 0.0]], requires_grad=True)
    torch.autograd.backward(loss_of(loss="focal").each(logits, targets_of()[:1]).sum())
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_bce_asks_each_class_alone() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.0]])
    expected = math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log(2)
    assert float(loss_of(loss="bce").each(logits, targets_of()[:1])) == pytest.approx(expected, rel=1e-5)


def test_adjusted_priors_are_inside_the_softmax() -> None:
    loss = loss_of(imbalance="adjust")
    priors = torch.tensor([5 / 8, 2 / 8, 1 / 8])
    expected = F.cross_entropy(logits_of() + priors.log(), torch.tensor(TARGETS))
    assert mean(loss, logits_of(), targets_of()) == pytest.approx(float(expected), abs=1e-6)
    # What knows nothing and is adjusted gives the priors themselves.
    assert mean(loss, torch.zeros(8, 3), targets_of()) == pytest.approx(
        -sum(float(prior * prior.log()) for prior in priors), abs=1e-6
    )


def test_a_class_without_examples_breaks_nothing() -> None:
    for recipe in ({"imbalance": "adjust"}, {"loss": "weighted_cross_entropy"}):
        loss = losses.build(trainees.settled(**recipe), [0, 1, 1], 4, CPU)
        value = loss.each(torch.zeros(3, 4), losses.one_hot(torch.tensor([0, 1, 1]), 4))
        assert value.isfinite().all()


@pytest.mark.parametrize("name", ["cross_entropy", "weighted_cross_entropy", "focal", "bce"])
def test_parts_of_a_batch_add_up_to_the_whole(name: str) -> None:
    loss, logits, targets = loss_of(loss=name), logits_of(), targets_of()
    parts = [float(loss.each(logits[rows], targets[rows]).sum()) for rows in (slice(0, 3), slice(3, 8))]
    assert sum(parts) == pytest.approx(float(loss.each(logits, targets).sum()), rel=1e-6)
