"""Takes the features of labelled images.

Gives how well the nearest other images tell an image's class, what that reads for shuffled labels, and which
images are there twice.
Knows nothing of networks, or of what is decided by it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.learning import ridge

#: rows compared with all others at a time
CHUNK = 1024


def neighbours(features: Tensor, targets: Tensor, most: int = 20) -> Tensor:
    """Give the rows [N, k] of the nearest other images by cosine of centred features, nearest first.

    `features` [N, D], `targets` [N]; k is `most`, or half the smallest class.
    """
    num = torch.bincount(targets)
    asked = max(1, min(most, int(num[num > 0].min()) // 2))
    unit = F.normalize(features - features.mean(0), dim=1).float()
    found = []
    for rows in torch.split(torch.arange(len(unit)), CHUNK):
        likeness = unit[rows] @ unit.T
        likeness[torch.arange(len(rows)), rows] = -torch.inf
        found.append(likeness.topk(asked, dim=1).indices)
    return torch.cat(found)


def knn(neighbours: Tensor, targets: Tensor) -> float:
    """Give the balanced accuracy of the neighbours' vote: leave one out, and nothing to train (Sorkhei et al. 2025)."""
    num_classes = int(targets.max()) + 1
    votes = torch.zeros(len(targets), num_classes)
    # Nearer ones break ties: their votes weigh a little more.
    weights = 1 - 1e-3 * torch.arange(neighbours.shape[1]) / neighbours.shape[1]
    votes.scatter_add_(1, targets[neighbours], weights.expand(neighbours.shape).contiguous())
    return ridge.balanced_accuracy(votes.argmax(1), targets)


def null(neighbours: Tensor, targets: Tensor, num_permutations: int = 100, seed: int = 0) -> Tensor:
    """Give what `knn` reads with the labels shuffled, once for each permutation: what chance reaches."""
    generator = torch.Generator().manual_seed(seed)
    shuffles = (targets[torch.randperm(len(targets), generator=generator)] for _ in range(num_permutations))
    return torch.tensor([knn(neighbours, shuffled) for shuffled in shuffles])


def distinct(features: Tensor, targets: Tensor, same: float) -> Tensor:
    """Give the rows [M] of `features` [N, D] that are no copy of another with the same label.

    Their order depends on the rows alone and not on the order, or how often, they are given. Copies need not be equal
    to the last bit (batches of other sizes round otherwise): `same` is the relative distance that is forgiven.
    """
    # Copies lie side by side once sorted along any one direction.
    direction = torch.randn(features.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    along = torch.argsort(features.double() @ direction, stable=True)
    order = along[torch.argsort(targets[along], stable=True)]
    is_copy = torch.zeros(len(order), dtype=torch.bool)
    for rows in torch.split(torch.arange(1, len(order)), CHUNK):
        here, before = features[order[rows]], features[order[rows - 1]]
        near = (here - before).norm(dim=1) <= same * here.norm(dim=1)
        is_copy[rows] = near & (targets[order[rows]] == targets[order[rows - 1]])
    return order[~is_copy]
