"""Takes the unlabelled images' features and what the champion says of them.

Gives which of them a person should label next, and why each.
Knows nothing of where images come from or where labels go.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from torch import Tensor, nn

Why = Literal["typical", "margin", "random"]

#: labels of a class below which typical images teach more than doubtful ones (TypiClust, Hacohen et al. 2022)
FEW_PER_CLASS = 10
#: share of each batch that is drawn at random: it keeps estimates honest and feeds the test split
RANDOM_SHARE = 0.2
#: images whose distances make an image typical (TypiClust)
NUM_NEIGHBOURS = 20
#: clusters above which k-means takes mini-batches, and clusters at most (TypiClust)
MANY_CLUSTERS, MAX_CLUSTERS = 50, 500
#: images that make a cluster; smaller ones are outliers, and wait until there is nothing else (TypiClust)
MIN_CLUSTER = 5
#: images that are clustered at most; a random part of a larger pool shows the same clusters
MAX_CLUSTERED = 10_000
#: cosine of features from which two images show the same thing (near-identical images exceed 0.95 with the first
#: published weights, pytorch/vision#8382); a batch has one of them
TOO_ALIKE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Images that wait for a label."""

    #: one per image
    references: tuple[str, ...]
    #: [P, D]
    features: Tensor
    #: [P, C], by the champion; None where there is none yet
    probabilities: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One image worth a label."""

    reference: str
    why: Why
    #: typical: nearness of its neighbours, more is better; margin: first minus second probability, less is better;
    #: random: 0
    score: float


def suggest(
    pool: Pool,
    labelled_features: Tensor,
    *,
    num: int,
    num_per_class: float,
    taken: frozenset[str] = frozenset(),
    seed: int = 0,
) -> list[Suggestion]:
    """Rank the `num` images to label next, best first; every fifth is drawn at random.

    Below FEW_PER_CLASS labels per class (the median), or without probabilities, the most typical images of clusters
    that no label covers yet; from there on those with the smallest margin, no two of them alike. References in
    `taken` (labelled, or waiting for a person) are left out, and no reference comes twice.
    """
    free = _free(pool, taken)
    num = min(num, len(free))
    generator = np.random.default_rng(seed)
    drawn = generator.permutation(free)[: math.ceil(num * RANDOM_SHARE)]
    rest, num_guided = np.setdiff1d(free, drawn), num - len(drawn)
    features = nn.functional.normalize(pool.features.float(), dim=1)
    if num_per_class < FEW_PER_CLASS or pool.probabilities is None:
        labelled = nn.functional.normalize(labelled_features.float().reshape(-1, features.shape[1]), dim=1)
        guided = _typical(features, labelled, rest, num_guided, generator)
    else:
        guided = _doubtful(features, pool.probabilities, rest, num_guided)
    return [
        Suggestion(reference=pool.references[index], why=why, score=score)
        for index, why, score in _mixed(guided, drawn.tolist())
    ]


_Ranked = tuple[int, Why, float]


def _free(pool: Pool, taken: frozenset[str]) -> NDArray[np.int64]:
    first = {reference: index for index, reference in reversed(list(enumerate(pool.references)))}
    return np.array(sorted(index for reference, index in first.items() if reference not in taken), dtype=np.int64)


def _mixed(guided: list[_Ranked], drawn: list[int]) -> Iterator[_Ranked]:
    """Put a random one behind every four guided ones, so that who labels only the first few has both kinds."""
    random, step = iter(drawn), round(1 / RANDOM_SHARE) - 1
    for rank, row in enumerate(guided, start=1):
        yield row
        if rank % step == 0 and (index := next(random, None)) is not None:
            yield index, "random", 0.0
    yield from ((index, "random", 0.0) for index in random)


def _doubtful(features: Tensor, probabilities: Tensor, rest: NDArray[np.int64], num: int) -> list[_Ranked]:
    best = probabilities.double().topk(min(2, probabilities.shape[1]), dim=1).values
    margins = (best[:, 0] - best[:, -1]).numpy()
    order = rest[np.argsort(margins[rest], kind="stable")].tolist()
    chosen: list[int] = []
    alike: list[int] = []
    for index in order:
        if len(chosen) == num:
            break
        is_alike = bool(chosen) and bool((features[chosen] @ features[index]).max() > TOO_ALIKE)
        (alike if is_alike else chosen).append(index)
    # Where everything is alike the most doubtful of the others fill the batch.
    return [(index, "margin", float(margins[index])) for index in (chosen + alike)[:num]]


def _typical(
    features: Tensor, labelled: Tensor, rest: NDArray[np.int64], num: int, generator: np.random.Generator
) -> list[_Ranked]:
    """Take the most typical image of each cluster, those with the fewest labels and then the largest first."""
    if not num:
        return []
    shown = np.sort(generator.permutation(rest)[:MAX_CLUSTERED])
    num_clusters = min(len(labelled) + num, MAX_CLUSTERS)
    clusters = _clusters(torch.cat([features[shown], labelled]).numpy(), num_clusters, generator)
    own, covered = clusters[: len(shown)], np.bincount(clusters[len(shown) :], minlength=num_clusters)
    sizes, ranked = np.bincount(own, minlength=num_clusters), dict[int, list[tuple[int, float]]]()
    is_outlying = sizes < MIN_CLUSTER
    chosen: list[_Ranked] = []
    while len(chosen) < min(num, len(shown)):
        left = np.flatnonzero(sizes).tolist()
        cluster = min(left, key=lambda number: (is_outlying[number], covered[number], -sizes[number]))
        if cluster not in ranked:
            ranked[cluster] = _by_typicality(features, shown[own == cluster])
        index, typicality = ranked[cluster].pop(0)
        chosen.append((index, "typical", typicality))
        covered[cluster] += 1
        sizes[cluster] -= 1
    return chosen


def _clusters(rows: NDArray[np.float32], num: int, generator: np.random.Generator) -> NDArray[np.int64]:
    # More clusters than different rows is a warning from k-means, and no use.
    num = min(num, len({row.tobytes() for row in rows}))
    kind = KMeans if num <= MANY_CLUSTERS else MiniBatchKMeans
    seed = int(generator.integers(2**31))
    # In fp64: fp32 is cast to it piece by piece, which takes three times as long.
    found = kind(n_clusters=num, n_init=1, random_state=seed).fit_predict(rows.astype(np.float64))
    clusters: NDArray[np.int64] = found.astype(np.int64)
    return clusters


def _by_typicality(features: Tensor, members: NDArray[np.int64]) -> list[tuple[int, float]]:
    """Sort the images of a cluster by 1 / mean distance to their nearest neighbours in it, most typical first."""
    if len(members) == 1:
        return [(int(members[0]), 0.0)]
    num = min(NUM_NEIGHBOURS, len(members) - 1)
    rows = features[members]
    # One more neighbour than asked for: the nearest is the image itself.
    nearest = torch.cdist(rows, rows).topk(num + 1, dim=1, largest=False).values[:, 1:]
    typicality = (1 / (nearest.mean(dim=1) + 1e-5)).tolist()
    return sorted(zip(members.tolist(), typicality, strict=True), key=lambda row: -row[1])
