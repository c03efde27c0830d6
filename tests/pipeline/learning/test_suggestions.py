"""What to label next: covering first, doubtful later, and always some at random."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.learning import suggestions
from pipeline.learning.suggestions import Pool, Suggestion

NONE = torch.empty(0, 16)


def clustered(num_clusters: int, num_each: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Give features around far centres, and the number of each one's cluster."""
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.nn.functional.normalize(torch.randn(num_clusters, 16, generator=generator), dim=1)
    clusters = torch.arange(num_clusters * num_each) % num_clusters
    return centres[clusters] + torch.randn(len(clusters), 16, generator=generator), clusters


def pool_of(features: Tensor, probabilities: Tensor | None = None) -> Pool:
    references = tuple(f"im-{row}" for row in range(len(features)))
    return Pool(references=references, features=features, probabilities=probabilities)


def rows_of(found: list[Suggestion], why: str) -> list[int]:
    return [int(suggestion.reference.removeprefix("im-")) for suggestion in found if suggestion.why == why]


@pytest.mark.parametrize("num_per_class", [2, 50])
@pytest.mark.parametrize("num", [1, 4, 5, 10, 33, 100])
def test_a_fifth_is_random_and_nothing_comes_twice(num: int, num_per_class: float) -> None:
    features, _ = clustered(8, 40)
    probabilities = torch.randn(320, 4, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    found = suggestions.suggest(pool_of(features, probabilities), NONE, num=num, num_per_class=num_per_class)
    assert len({suggestion.reference for suggestion in found}) == num
    assert len(rows_of(found, "random")) == -(-num // 5)
    for first in range(5, num + 1, 5):
        assert len(rows_of(found[:first], "random")) == first // 5, "who labels only the first has as many"


def test_what_is_labelled_or_waits_for_a_person_is_never_suggested() -> None:
    features, _ = clustered(5, 20)
    taken = frozenset(f"im-{row}" for row in range(0, 100, 2))
    for num_per_class in (2, 50):
        pool = pool_of(features, torch.full((100, 3), 1 / 3))
        found = suggestions.suggest(pool, NONE, num=80, num_per_class=num_per_class, taken=taken)
        assert len(found) == 50
        assert not {suggestion.reference for suggestion in found} & taken


def test_a_reference_that_is_in_the_pool_twice_is_suggested_once() -> None:
    features, _ = clustered(2, 5)
    pool = Pool(references=("a", "b") * 5, features=features)
    assert {row.reference for row in suggestions.suggest(pool, NONE, num=10, num_per_class=0)} == {"a", "b"}


def test_an_empty_pool_gets_no_suggestions() -> None:
    assert suggestions.suggest(pool_of(NONE, torch.empty(0, 3)), NONE, num=10, num_per_class=3) == []
    features, _ = clustered(2, 5)
    assert suggestions.suggest(pool_of(features), NONE, num=0, num_per_class=3) == []


def test_the_same_seed_suggests_the_same() -> None:
    features, _ = clustered(6, 30)
    first, again, other = (
        suggestions.suggest(pool_of(features), NONE, num=20, num_per_class=0, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again != other


# ---------------------------------------------------------------- few labels: typical


def test_with_few_labels_every_cluster_gets_one_before_any_gets_two() -> None:
    features, clusters = clustered(8, 25)
    found = rows_of(suggestions.suggest(pool_of(features), NONE, num=10, num_per_class=0), "typical")
    assert sorted(clusters[found].tolist()) == list(range(8))


def test_clusters_that_have_labels_wait() -> None:
    features, clusters = clustered(8, 25)
    is_labelled = (clusters < 4) & (torch.arange(200) < 40)
    pool, labelled = pool_of(features), features[is_labelled]
    taken = frozenset(pool.references[row] for row in torch.nonzero(is_labelled)[:, 0].tolist())
    found = rows_of(suggestions.suggest(pool, labelled, num=5, num_per_class=5, taken=taken), "typical")
    assert set(clusters[found].tolist()) <= {4, 5, 6, 7}


def test_a_typical_image_has_near_neighbours_and_an_outlier_is_none() -> None:
    features, _ = clustered(1, 60)
    features[7] = -features[7]
    found = suggestions.suggest(pool_of(features), NONE, num=5, num_per_class=0)
    typical = rows_of(found, "typical")
    rows = torch.nn.functional.normalize(features, dim=1)
    nearness = 1 / torch.cdist(rows, rows).sort(dim=1).values[:, 1:21].mean(dim=1)
    assert nearness[typical].mean() > nearness.mean()
    assert 7 not in typical


def test_without_a_champion_it_is_typical_images_however_many_labels_there_are() -> None:
    features, _ = clustered(4, 20)
    found = suggestions.suggest(pool_of(features), NONE, num=10, num_per_class=100)
    assert {suggestion.why for suggestion in found} == {"typical", "random"}


def test_a_pool_of_one_picture_over_and_over_is_no_trouble() -> None:
    found = suggestions.suggest(pool_of(torch.ones(30, 16)), torch.ones(3, 16), num=10, num_per_class=1)
    assert len(found) == 10


# ---------------------------------------------------------------- many labels: doubtful


def test_with_labels_enough_the_smallest_margins_come_first() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 64, generator=generator)
    probabilities = torch.randn(200, 5, generator=generator).softmax(dim=1)
    found = suggestions.suggest(pool_of(features, probabilities), NONE, num=20, num_per_class=10)
    scores = [suggestion.score for suggestion in found if suggestion.why == "margin"]
    best = probabilities.double().topk(2, dim=1).values
    margins = (best[:, 0] - best[:, 1]).sort().values
    assert len(scores) == 16
    assert scores == sorted(scores)
    assert scores[-1] <= margins[19], "only random draws came before them"


def test_of_images_that_show_the_same_one_is_enough() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(100, 64, generator=generator)
    features[:50] = features[0] + 0.01 * torch.randn(50, 64, generator=generator)
    probabilities = torch.full((100, 2), 0.5)
    probabilities[50:] = torch.tensor([0.8, 0.2])
    found = rows_of(suggestions.suggest(pool_of(features, probabilities), NONE, num=10, num_per_class=50), "margin")
    assert sum(row < 50 for row in found) == 1
    everything = suggestions.suggest(pool_of(features, probabilities), NONE, num=100, num_per_class=50)
    assert len(everything) == 100, "the others fill the batch where there is nothing else"
