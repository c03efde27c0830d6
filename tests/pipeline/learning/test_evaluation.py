"""Metrics equal scikit-learn's, temperatures come back, and a score says what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

from pipeline.learning import evaluation
from pipeline.learning.evaluation import Metrics, OutOfFold
from pipeline.preprocess import Preprocess

CLASSES = ("cat", "dog", "hen", "owl", "pig")


def drawn(num: int, *, temperature: float = 1.0, num_classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Give logits whose softmax at this temperature is the probability of each label, and labels drawn by it."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(num, num_classes, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return logits * temperature, targets


@pytest.fixture(scope="module")
def measured() -> tuple[Tensor, Tensor, Metrics]:
    logits, targets = drawn(1200)
    return logits, targets, evaluation.measure(logits, targets, CLASSES, temperature=1.3)


def test_the_metrics_are_scikit_learns(measured: tuple[Tensor, Tensor, Metrics]) -> None:
    logits, targets, found = measured
    truth, called = targets.numpy(), logits.argmax(dim=1).numpy()
    shares = (logits / 1.3).softmax(dim=1).numpy()
    assert found.num == 1200
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, called))
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(truth, called))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(truth, called, average="macro"))
    assert found.nll == pytest.approx(metrics.log_loss(truth, shares))
    assert found.brier == pytest.approx(np.square(shares - np.eye(5)[truth]).sum(axis=1).mean())
    assert found.confusion == tuple(map(tuple, metrics.confusion_matrix(truth, called).tolist()))
    precision, recall, f1, num = metrics.precision_recall_fscore_support(truth, called)
    for row, *expected in zip(found.per_class, precision, recall, f1, num, strict=True):
        assert [row.precision, row.recall, row.f1, row.num] == pytest.approx(expected)


def test_the_metrics_survive_the_ledger(measured: tuple[Tensor, Tensor, Metrics]) -> None:
    found = measured[2]
    assert Metrics.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_a_class_without_images_has_no_recall_and_weighs_nothing() -> None:
    found = evaluation.measure(torch.eye(3)[[0, 0, 1]], torch.tensor([0, 1, 1]), ("cat", "dog", "hen"))
    assert (found.per_class[2].num, found.per_class[2].recall, found.per_class[2].f1) == (0, None, None)
    assert found.balanced_accuracy == pytest.approx((1 + 0.5) / 2)


def test_a_class_that_is_never_named_has_precision_0() -> None:
    found = evaluation.measure(torch.eye(2)[[0, 0]], torch.tensor([0, 1]), ("cat", "dog"))
    assert (found.per_class[1].precision, found.per_class[1].recall, found.per_class[1].f1) == (0.0, 0.0, 0.0)


def test_a_removed_class_is_never_the_answer() -> None:
    logits, targets = torch.tensor([[1.0, 2.0, 9.0], [3.0, 1.0, 9.0]]), torch.tensor([1, 0])
    found = evaluation.measure(logits, targets, ("cat", "dog", "hen"), masked=[2])
    assert (found.accuracy, found.nll) == (1.0, pytest.approx(0.220095, abs=1e-6))
    assert evaluation.measure(logits, targets, ("cat", "dog", "hen")).accuracy == 0.0
    assert logits.isfinite().all(), "the caller's logits are left alone"


def test_the_calibration_error_is_no_figure_below_a_thousand_images() -> None:
    logits, targets = drawn(1000)
    assert evaluation.measure(logits, targets, CLASSES).ece is not None
    assert evaluation.measure(logits[:999], targets[:999], CLASSES).ece is None


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (0, 5)])
def test_logits_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        evaluation.measure(torch.zeros(shape), torch.zeros(3 if shape[0] else 0, dtype=torch.int64), CLASSES)


# ---------------------------------------------------------------- temperature


@pytest.mark.parametrize("truth", [0.4, 1.0, 2.5, 8.0])
def test_the_temperature_comes_back_within_five_percent(truth: float) -> None:
    logits, targets = drawn(5000, temperature=truth, num_classes=10)
    assert evaluation.fit_temperature(logits, targets) == pytest.approx(truth, rel=0.05)


def test_the_temperature_mends_the_calibration_and_no_answer_changes() -> None:
    logits, targets = drawn(5000, temperature=2.5, num_classes=10)
    names, fitted = [str(number) for number in range(10)], evaluation.fit_temperature(logits, targets)
    before = evaluation.measure(logits, targets, names)
    after = evaluation.measure(logits, targets, names, temperature=fitted)
    assert before.ece > 0.15
    assert after.ece < 0.03
    assert after.nll < before.nll
    assert after.confusion == before.confusion


def test_a_validation_split_without_a_mistake_leaves_the_scores_as_they_are() -> None:
    logits = 6 * torch.eye(3).repeat(25, 1)
    fitted = evaluation.fit_temperature(logits, torch.arange(3).repeat(25))
    assert 0.5 < fitted < 1.0, "the lowest temperature would make every score 1"


def test_the_temperature_stays_in_its_bounds() -> None:
    logits, targets = drawn(2000, temperature=1000.0)
    assert evaluation.fit_temperature(logits, targets) == pytest.approx(20.0, rel=0.01)
    assert evaluation.fit_temperature(torch.empty(0, 5), torch.empty(0)) == 1.0


def test_the_temperature_bears_removed_classes() -> None:
    logits, targets = drawn(3000, temperature=2.0)
    wider = torch.cat([logits, torch.full((3000, 1), 50.0)], dim=1)
    masked = evaluation.mask(wider, [5])
    assert evaluation.fit_temperature(masked, targets) == pytest.approx(evaluation.fit_temperature(logits, targets))


# ---------------------------------------------------------------- reliability


def test_the_bins_hold_every_image_once_and_their_gap_is_the_calibration_error() -> None:
    logits, targets = drawn(4000, temperature=3.0)
    bins = evaluation.reliability(logits, targets, 1.0)
    gap = sum(row.num * abs(row.accuracy - row.confidence) for row in bins) / 4000
    assert (len(bins), sum(row.num for row in bins)) == (15, 4000)
    assert all(row.low < row.confidence <= row.high for row in bins if row.num)
    assert evaluation.measure(logits, targets, CLASSES).ece == pytest.approx(gap)


def test_a_score_of_1_lies_in_the_last_bin_and_a_perfect_fit_has_no_gap() -> None:
    bins = evaluation.reliability(1000 * torch.eye(4), torch.arange(4), 1.0, num_bins=10)
    assert [row.num for row in bins] == [0] * 9 + [4]
    assert (bins[9].confidence, bins[9].accuracy) == (1.0, 1.0)


# ---------------------------------------------------------------- forward


class Brightness(nn.Module):
    """Answers with the mean of each channel, and fails where it is asked for more images than it has memory for."""

    def __init__(self, memory: int = 100) -> None:
        super().__init__()
        self.memory, self.sizes = memory, list[int]()
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.memory:
            raise torch.OutOfMemoryError
        self.sizes.append(len(images))
        return self.dropout(images).mean(dim=(2, 3))


PLAIN = Preprocess(resize_size=4, crop_size=4, mean=(0, 0, 0), std=(1, 1, 1))


def batches(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (size, 3, 4, 4), generator=generator, dtype=torch.uint8) for size in sizes]


def test_forward_gives_a_row_per_image_in_order_and_in_evaluation_mode() -> None:
    asked, network = batches(3, 3, 1), Brightness().train()
    logits = evaluation.forward(network, PLAIN, asked, torch.device("cpu"))
    torch.testing.assert_close(logits, torch.cat(asked).float().mean(dim=(2, 3)) / 255)
    assert (logits.dtype, network.training, logits.requires_grad) == (torch.float32, False, False)


def test_forward_halves_batches_that_do_not_fit() -> None:
    asked, network = batches(9), Brightness(memory=3)
    logits = evaluation.forward(network, PLAIN, asked, torch.device("cpu"))
    torch.testing.assert_close(logits, asked[0].float().mean(dim=(2, 3)) / 255)
    assert network.sizes == [3, 2, 2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        evaluation.forward(Brightness(memory=0), PLAIN, asked, torch.device("cpu"))


def test_forward_of_nothing_is_nothing() -> None:
    assert evaluation.forward(Brightness(), PLAIN, [], torch.device("cpu")).shape == (0, 0)


def test_forward_in_bf16_gives_fp32_near_by() -> None:
    network, asked = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), batches(8)
    exact = evaluation.forward(network, PLAIN, asked, torch.device("cpu"))
    rough = evaluation.forward(network, PLAIN, asked, torch.device("cpu"), torch.bfloat16)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.02)
    assert not torch.equal(rough, exact)


# ---------------------------------------------------------------- out of fold


@pytest.mark.parametrize(
    "folds", [[0, 0, 0], [0, 1, -1], [0, 1]], ids=["one fold", "an item in no fold", "too few folds"]
)
def test_probabilities_are_out_of_fold_only_with_a_fold_for_each_and_two_at_least(folds: list[int]) -> None:
    with pytest.raises(ValueError, match="fold"):
        OutOfFold(probabilities=torch.full((3, 2), 0.5), folds=torch.tensor(folds))
