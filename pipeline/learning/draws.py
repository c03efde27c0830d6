"""Takes class numbers.

Gives random draws of their rows that are fair to every class: places, folds, an order, a sample.
Knows nothing of features or images.
"""

from __future__ import annotations

import torch
from torch import Tensor


def renumbered(targets: Tensor) -> Tensor:
    """Give [N] class numbers without gaps: 0, 1, ... for those of `targets` that occur, in order."""
    num = torch.bincount(targets)
    return ((num > 0).cumsum(0) - 1)[targets]


def places(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Give each row its place 0, 1, 2, ... among the rows of its class, in random order."""
    order = torch.randperm(len(targets), generator=generator)
    order = order[torch.argsort(targets[order], stable=True)]
    num = torch.bincount(targets)
    starts = (num.cumsum(0) - num)[targets[order]]
    found = torch.empty_like(order)
    found[order] = torch.arange(len(order)) - starts
    return found


def folds(targets: Tensor, num_folds: int, seed: int) -> Tensor:
    """Deal each class's rows out to folds 0..num_folds-1; give [N] fold numbers."""
    dealt = places(targets, torch.Generator().manual_seed(seed))
    # Each class goes on where the last one ended, so that small classes do not all fill the first folds.
    num = torch.bincount(targets)
    return (dealt + (num.cumsum(0) - num)[targets]) % num_folds


def even_order(targets: Tensor, seed: int, *, least: int = 0) -> Tensor:
    """Give the rows in an order whose every beginning holds the classes in about their shares.

    The first `least` rows of each class come before all others.
    """
    place = places(targets, torch.Generator().manual_seed(seed))
    share = (place + 0.5) / torch.bincount(targets)[targets]
    return torch.argsort(share + (place >= least).double(), stable=True)
