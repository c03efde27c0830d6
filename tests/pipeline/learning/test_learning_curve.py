"""The learning curve finds the law it was drawn from, and says how many labels a target would take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.errors import SnapshotInvalid
from pipeline.learning import learning_curve
from pipeline.learning.learning_curve import LearningCurve, Point, PowerLaw
from tests.pipeline.learning.clusters import clusters


def points(law: PowerLaw, *, noise: float = 0.0, seed: int = 0) -> list[Point]:
    """Give five repeats of five log-spaced sizes."""
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(20, 2000, 5).round().astype(int).tolist()
    return [Point(num=size, error=law.error(size) + noise * rng.normal()) for size in sizes for _ in range(5)]


@pytest.mark.parametrize(
    "law",
    [
        PowerLaw(floor=0.05, scale=1.2, exponent=0.5),
        PowerLaw(floor=0.10, scale=2.0, exponent=0.7),
        PowerLaw(floor=0.02, scale=0.8, exponent=0.3),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_the_law_is_recovered_within_a_tenth(law: PowerLaw, noise: float) -> None:
    found = learning_curve.fit(points(law, noise=noise)).law
    assert found.scale == pytest.approx(law.scale, rel=0.1)
    assert found.exponent == pytest.approx(law.exponent, rel=0.1)
    assert found.floor == pytest.approx(law.floor, rel=0.1, abs=0.005)


def test_the_images_needed_and_their_interval() -> None:
    law = PowerLaw(floor=0.05, scale=1.2, exponent=0.5)
    exact = learning_curve.fit(points(law)).needed(0.08)
    assert exact is not None
    assert exact.num == pytest.approx((0.03 / 1.2) ** -2, rel=0.02)
    assert exact.low == exact.high == exact.num
    noisy = [learning_curve.fit(points(law, noise=0.01, seed=seed), seed=seed).needed(0.08) for seed in range(20)]
    covered = [row is not None and row.low <= 1600 and (row.high is None or row.high >= 1600) for row in noisy]
    # Resampling five repeats tells too narrow an interval by a factor of sqrt(4/5): about 0.83 is its best.
    assert sum(covered) / 20 >= 0.7


def test_below_the_floor_is_not_reachable() -> None:
    curve = learning_curve.fit(points(PowerLaw(floor=0.1, scale=2.0, exponent=0.7)))
    assert curve.needed(0.09) is None
    assert curve.sentence(0.95) == (
        "More labels alone will not reach a balanced accuracy of 0.95: a head on these features levels off near 0.90."
    )


def test_an_estimate_beyond_all_reason_is_not_reachable() -> None:
    curve = learning_curve.fit(points(PowerLaw(floor=0.05, scale=0.5, exponent=0.1)))
    assert curve.needed(0.06) is None


def test_a_flat_curve_needs_nothing_more_or_never_arrives() -> None:
    curve = learning_curve.fit(points(PowerLaw(floor=0.3, scale=0.0, exponent=1.0)))
    assert curve.needed(0.2) is None
    reached = curve.needed(0.4)
    assert reached is not None
    assert reached.num <= 20


def test_the_sentence_gives_the_number_and_its_span() -> None:
    law = PowerLaw(floor=0.05, scale=1.2, exponent=0.5)
    curve = LearningCurve(points=(), law=law, resampled=(PowerLaw(floor=0.05, scale=1.0, exponent=0.5), law))
    sentence = "A balanced accuracy of 0.92 would take about 1,700 training images (1,200 to 1,700)."
    assert curve.sentence(0.92) == sentence
    never = LearningCurve(points=(), law=law, resampled=(law, PowerLaw(floor=0.09, scale=1.0, exponent=0.5)))
    assert never.sentence(0.92).endswith("or far more).")


def test_an_error_never_goes_below_zero() -> None:
    found = learning_curve.fit([Point(num=size, error=max(0.0, 0.2 - 0.01 * size)) for size in (4, 8, 16, 20, 24)])
    assert found.law.floor >= 0
    assert found.law.scale >= 0


@pytest.mark.parametrize("sizes", [(), (10,), (10, 10, 20)])
def test_fewer_than_three_sizes_are_no_curve(sizes: tuple[int, ...]) -> None:
    with pytest.raises(SnapshotInvalid, match="three sizes"):
        learning_curve.fit([Point(num=size, error=0.1) for size in sizes])


def test_the_head_s_error_falls_with_more_images() -> None:
    features, targets = clusters(num=300, dim=32, num_classes=4, separation=2)
    curve = learning_curve.measure(features, targets)
    assert len(curve.points) == 25
    sizes = sorted({point.num for point in curve.points})
    assert (sizes[0], sizes[-1]) == (8, 240)
    errors = [np.mean([point.error for point in curve.points if point.num == size]) for size in sizes]
    assert errors[0] > errors[2] > errors[4]
    assert curve == learning_curve.measure(features, targets)


def test_too_few_images_for_a_curve_are_refused() -> None:
    with pytest.raises(SnapshotInvalid, match="label more"):
        learning_curve.measure(torch.randn(8, 4), torch.arange(8) % 4)


def test_classes_too_small_for_every_fold_do_no_harm() -> None:
    features, _ = clusters(num=60, dim=8, num_classes=2, separation=4)
    targets = torch.tensor([0] * 29 + [5] * 29 + [7] * 2)
    assert len(learning_curve.measure(features, targets).points) == 25
