"""The probe measures how well frozen features tell the classes apart, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.errors import RecipeInvalid, SnapshotInvalid
from pipeline.learning import similarity
from pipeline.learning.similarity import ProbePolicy
from tests.pipeline.learning.clusters import clusters

#: fewer shuffles: the tests of the null hold elsewhere
QUICK = ProbePolicy(num_permutations=20)


def probed(separation: float, *, num: int = 300, dim: int = 32, num_classes: int = 6) -> similarity.Similarity:
    features, targets = clusters(num=num, dim=dim, num_classes=num_classes, separation=separation)
    return similarity.probe(features, targets, num_classes, QUICK)


@pytest.mark.parametrize(("num", "dim"), [(600, 64), (90, 512)], ids=["more images", "more features"])
def test_every_score_rises_with_separation(num: int, dim: int) -> None:
    found = [probed(separation, num=num, dim=dim) for separation in (0, 2, 4, 8)]
    for name in ("knn", "ridge", "logme", "score"):
        scores = [getattr(row, name) for row in found]
        assert scores == sorted(set(scores)), name


def test_noise_has_no_signal_and_clusters_have() -> None:
    assert not probed(0).has_signal
    assert probed(4).has_signal
    assert probed(0).score == pytest.approx(0, abs=0.05)


def test_more_shots_score_higher_and_the_axis_is_five() -> None:
    found = probed(2)
    assert [shots.num for shots in found.shots] == [1, 5, 10]
    assert found.shots[0].mean < found.shots[1].mean < found.shots[2].mean
    assert (found.score, found.score_shots) == (found.shots[1].mean, 5)


def test_the_few_shot_score_is_nought_at_chance_and_one_when_perfect() -> None:
    features, targets = clusters(num=80, dim=16, num_classes=4, separation=100)
    perfect = similarity.few_shots(features, targets, 5, 10, 0)
    assert (perfect.mean, perfect.std) == (1.0, 0.0)
    constant = similarity.few_shots(torch.ones(80, 16), targets, 5, 10, 0)
    assert constant.mean == pytest.approx(0, abs=1e-12)


def test_repeating_the_data_ten_times_changes_no_figure() -> None:
    features, targets = clusters(num=150, dim=16, num_classes=5, separation=2)
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(0))
    once = similarity.probe(features, targets, 5, QUICK)
    ten_times = similarity.probe(features.repeat(10, 1)[order], targets.repeat(10)[order], 5, QUICK)
    assert ten_times == replace(once, num=1500)
    assert once.num_used == 150


def test_the_score_does_not_measure_the_amount() -> None:
    few, many = (probed(3, num=num, dim=256) for num in (120, 1200))
    assert few.score == pytest.approx(many.score, abs=0.06)
    assert many.ridge > few.ridge + 0.1


def test_more_images_than_the_cap_are_sampled_and_it_says_so() -> None:
    features, targets = clusters(num=900, dim=16, num_classes=3, separation=2)
    found = similarity.probe(features, targets, 3, replace(QUICK, max_examples=300))
    assert (found.num, found.num_used) == (900, 300)
    assert found.score == pytest.approx(similarity.probe(features, targets, 3, QUICK).score, abs=0.05)


def test_the_cap_leaves_small_classes_enough_for_the_shots() -> None:
    features, _ = clusters(num=1000, dim=16, num_classes=2, separation=2)
    targets = (torch.arange(1000) < 25).long()
    found = similarity.probe(features, targets, 2, replace(QUICK, max_examples=100))
    assert [shots.num_classes for shots in found.shots] == [2, 2, 2]


def test_the_controls_are_scored_alike_and_the_gain_is_over_the_better() -> None:
    features, targets = clusters(num=120, dim=16, num_classes=4, separation=4)
    weak, _ = clusters(num=120, dim=16, num_classes=4, separation=1.5, seed=1)
    noise, _ = clusters(num=120, dim=96, num_classes=4, separation=0, seed=2)
    found = similarity.probe(features, targets, 4, QUICK, random_features=weak, histogram_features=noise)
    assert found.control_random is not None
    assert found.control_histogram is not None
    assert found.score > found.control_random > found.control_histogram
    assert found.gain == pytest.approx(found.score - found.control_random)


def test_features_that_are_their_own_control_gain_nothing() -> None:
    features, targets = clusters(num=120, dim=16, num_classes=4, separation=4)
    found = similarity.probe(features, targets, 4, QUICK, histogram_features=features)
    assert (found.gain, found.control_random) == (0.0, None)
    assert similarity.probe(features, targets, 4, QUICK).gain is None


def test_fewer_shots_stand_in_where_most_classes_are_small() -> None:
    features, targets = clusters(num=12, dim=16, num_classes=4, separation=4)
    found = similarity.probe(features, targets, 4, QUICK)
    assert [shots.num for shots in found.shots] == [1]
    assert found.score_shots == 1


def test_one_small_class_is_left_out_of_the_shots_it_cannot_give() -> None:
    features, targets = clusters(num=90, dim=16, num_classes=3, separation=4)
    kept = (targets < 2) | (torch.arange(90) < 9)
    found = similarity.probe(features[kept], targets[kept], 3, QUICK)
    assert [(shots.num, shots.num_classes) for shots in found.shots] == [(1, 3), (5, 2), (10, 2)]
    assert found.score_shots == 5


def test_class_numbers_may_have_gaps() -> None:
    features, targets = clusters(num=90, dim=16, num_classes=3, separation=4)
    gapped = similarity.probe(features, torch.tensor([1, 4, 9])[targets], 12, QUICK)
    assert gapped == similarity.probe(features, targets, 3, QUICK)


def test_the_same_seed_gives_the_same_figures() -> None:
    features, targets = clusters(num=120, dim=16, num_classes=4, separation=2)
    assert similarity.probe(features, targets, 4, QUICK, seed=3) == similarity.probe(
        features, targets, 4, QUICK, seed=3
    )
    assert similarity.probe(features, targets, 4, QUICK, seed=3) != similarity.probe(
        features, targets, 4, QUICK, seed=4
    )


@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        (torch.randn(6, 4), [0] * 6, "two classes with two different images each"),
        (torch.randn(3, 4), [0, 0, 1], "two classes with two different images each"),
        (torch.ones(6, 4), [0, 0, 0, 1, 1, 1], "two classes with two different images each"),
        (torch.randn(4, 4), [0, 0, 1, 5], "2 classes, and a target of 5"),
        (torch.full((4, 4), torch.nan), [0, 0, 1, 1], "features of 4 images are not finite"),
        (torch.empty(0, 4), [], "no images to probe"),
    ],
    ids=["one class", "a class of one", "one image repeated", "a strange class", "nan", "nothing"],
)
def test_what_cannot_be_probed_is_refused(features: Tensor, targets: list[int], message: str) -> None:
    with pytest.raises(SnapshotInvalid, match=message):
        similarity.probe(features, torch.tensor(targets, dtype=torch.long), 2, QUICK)


def test_shots_that_no_class_can_give_are_refused() -> None:
    features, targets = clusters(num=8, dim=4, num_classes=2, separation=4)
    with pytest.raises(SnapshotInvalid, match="No two classes have more than 5 images"):
        similarity.probe(features, targets, 2, replace(QUICK, shots=(5, 10)))


@pytest.mark.parametrize(
    "fields",
    [{"shots": ()}, {"shots": (0, 5)}, {"axis": 3}, {"num_folds": 1}, {"max_examples": 0}],
    ids=["no shots", "no shot", "another axis", "one fold", "no examples"],
)
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(RecipeInvalid):
        ProbePolicy(**fields)  # type: ignore[arg-type]


def test_histograms_share_out_the_pixels_of_each_channel() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[1, 0] = 255
    images[1, 2, :2] = 8
    found = similarity.histograms(images)
    assert found.shape == (2, 96)
    assert found[0].nonzero().squeeze(1).tolist() == [0, 32, 64]
    assert found[1, [31, 32, 64, 65]].tolist() == [1.0, 1.0, 0.5, 0.5]
    assert found.sum(1).tolist() == [3.0, 3.0]
