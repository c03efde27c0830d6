"""The scores of the literature, on the vectors they were checked with."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from pipeline.errors import SnapshotInvalid
from pipeline.learning import transferability
from tests.pipeline.learning.clusters import clusters

FEATURES = torch.tensor([[1.0, 0], [2, 1], [1, 1], [-1, 0], [-2, 1], [-1, -1]])
TARGETS = torch.tensor([0, 0, 0, 1, 1, 1])
THETA = torch.tensor(
    [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0.2, 0.1, 0.7], [0.1, 0.3, 0.6]]
)


def rotation(dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (transferability.logme(FEATURES, TARGETS), -0.992373),
        (transferability.hscore(FEATURES, TARGETS, is_shrunk=False), 0.913580),
        (transferability.transrate(FEATURES, TARGETS), 0.148242),
        (transferability.cka(FEATURES, FEATURES * torch.tensor([2.0, 1])), 0.981205),
        (transferability.frechet(FEATURES, FEATURES + torch.tensor([3.0, 4])), 25.0),
        (transferability.leep(THETA, TARGETS), -0.368685),
    ],
    ids=["LogME", "H-score", "TransRate", "CKA", "Frechet", "LEEP"],
)
def test_the_vectors_of_science_1_3(found: float, expected: float) -> None:
    assert found == pytest.approx(expected, abs=1e-5)


def test_logme_does_not_see_rotation_or_scale() -> None:
    features, targets = clusters(num=200, dim=16, num_classes=4, separation=2)
    plain = transferability.logme(features, targets, tolerance=1e-10)
    turned = transferability.logme(features.double() @ rotation(16) * 7.3, targets, tolerance=1e-10)
    assert turned == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize(("num", "dim"), [(600, 64), (60, 512)], ids=["more images", "more features"])
def test_logme_rises_with_separation(num: int, dim: int) -> None:
    scores = [
        transferability.logme(*clusters(num=num, dim=dim, num_classes=6, separation=separation))
        for separation in (0, 1, 2, 4, 8)
    ]
    assert scores == sorted(set(scores))


def test_logme_survives_features_that_fit_a_class_exactly() -> None:
    targets = torch.arange(40) % 4
    assert math.isfinite(transferability.logme(torch.eye(4)[targets], targets))
    assert math.isfinite(transferability.logme(torch.randn(8, 64), torch.arange(8) % 2))


def test_a_constant_prediction_is_worth_the_entropy_of_the_labels() -> None:
    targets = torch.arange(90) % 3
    assert transferability.leep(torch.full((90, 7), 1 / 7, dtype=torch.float64), targets) == pytest.approx(
        -math.log(3), abs=1e-12
    )


def test_a_source_class_that_is_never_predicted_makes_no_nan() -> None:
    padded = torch.cat([THETA, torch.zeros(6, 2)], dim=1)
    assert transferability.leep(padded, TARGETS) == pytest.approx(transferability.leep(THETA, TARGETS), abs=1e-9)


def test_the_plain_hscore_of_few_images_would_say_nothing_and_is_refused() -> None:
    features, targets = clusters(num=60, dim=512, num_classes=6, separation=0)
    centred = (features - features.mean(0)).double()
    means = torch.stack([centred[targets == number].mean(0) for number in range(6)])[targets]
    meaningless = (torch.linalg.pinv(centred.T @ centred, hermitian=True) * (means.T @ means)).sum()
    assert float(meaningless) == pytest.approx(5.0, abs=1e-6)
    with pytest.raises(SnapshotInvalid, match="60 images with 512 features says nothing"):
        transferability.hscore(features, targets, is_shrunk=False)


def test_the_shrunk_hscore_tells_noise_from_signal_where_images_are_few() -> None:
    scores = [
        transferability.hscore(*clusters(num=60, dim=512, num_classes=6, separation=separation))
        for separation in (1, 4, 8)
    ]
    assert scores[0] < scores[1] < scores[2] < 5


def test_the_shrinkage_is_that_of_ledoit_and_wolf() -> None:
    features, targets = clusters(num=50, dim=30, num_classes=2, separation=1)
    centred = features.double() - features.double().mean(0)
    covariance, shrinkage = ledoit_wolf(centred.numpy(), assume_centered=True)
    means = torch.stack([centred[targets == number].mean(0) for number in range(2)])[targets]
    expected = torch.linalg.solve(torch.from_numpy(covariance), means.T @ means / 50 * (1 - shrinkage)).trace()
    assert transferability.hscore(features, targets) == pytest.approx(float(expected), rel=1e-9)


def test_hscore_does_not_see_invertible_maps() -> None:
    features, targets = clusters(num=200, dim=8, num_classes=4, separation=2)
    mapped = features.double() @ (rotation(8) * torch.linspace(1, 3, 8))
    plain = transferability.hscore(features, targets, is_shrunk=False)
    assert transferability.hscore(mapped, targets, is_shrunk=False) == pytest.approx(plain, abs=1e-9)


def test_transrate_weighs_classes_by_their_size() -> None:
    features, targets = clusters(num=120, dim=4, num_classes=3, separation=3)
    kept = (targets > 0) | (torch.arange(120) < 12)
    rows, labels = features[kept].double(), targets[kept]
    centred = rows - rows.mean(0)

    def rate(part: Tensor) -> float:
        return float(torch.logdet(torch.eye(4) + part.T @ part / (len(part) * 1e-4))) / 2

    within = sum(rate(centred[labels == number]) * int((labels == number).sum()) for number in range(3)) / len(rows)
    assert transferability.transrate(rows, labels) == pytest.approx(rate(centred) - within, abs=1e-9)


def test_cka_is_one_for_a_rotation_and_frechet_nought_for_the_same() -> None:
    features, _ = clusters(num=100, dim=6, num_classes=2, separation=1)
    assert transferability.cka(features, features.double() @ rotation(6) * 3) == pytest.approx(1, abs=1e-9)
    assert transferability.frechet(features, features) == pytest.approx(0, abs=1e-6)
