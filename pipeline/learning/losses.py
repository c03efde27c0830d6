"""Takes logits and the targets of a batch.

Gives the loss of each example by the name a recipe calls it, and the sum it is to be divided by, so that parts of a
batch (micro-batches, processes) add up to the loss of the whole.
Knows nothing of networks, optimizers or epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.learning.recipes import Settled


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A loss for one data set: per example, so that whoever sums decides over what."""

    #: (logits fp32 [N, C], targets fp32 [N, C] whose rows sum to 1) -> [N]
    per_example: Callable[[Tensor, Tensor], Tensor]
    #: [C]: how much an example of each class counts
    class_weights: Tensor
    #: [C]: added to the logits before the loss; zero unless priors are adjusted for
    offsets: Tensor

    def each(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Give the loss of each example, [N]; the loss of a batch is their sum over the batch's `weight`."""
        return self.per_example(logits.float() + self.offsets, targets)

    def weight(self, targets: Tensor) -> Tensor:
        """Give what a batch of these targets [N, C] weighs: N, unless classes weigh differently."""
        return (targets @ self.class_weights).sum()


def build(settled: Settled, targets: Sequence[int], num_classes: int, device: torch.device) -> Loss:
    """Build the recipe's loss for a data set with these targets.

    Weighted cross-entropy weighs class c by N / (C n_c), as scikit-learn's "balanced". imbalance=adjust adds
    ln pi_c to the logits (Menon et al. 2021, tau 1): the network's own logits come out as if classes were balanced,
    and must not be adjusted again.
    """
    counts = torch.tensor(np.bincount(np.asarray(targets), minlength=num_classes), dtype=torch.float32)
    weights = _balanced(counts) if settled.loss == "weighted_cross_entropy" else torch.ones(num_classes)
    offsets = _log_priors(counts) if settled.imbalance == "adjust" else torch.zeros(num_classes)
    weights, offsets = weights.to(device), offsets.to(device)
    return Loss(per_example=_per_example(settled, weights), class_weights=weights, offsets=offsets)


def one_hot(targets: Tensor, num_classes: int) -> Tensor:
    """Turn class numbers [N] into fp32 [N, C]."""
    return F.one_hot(targets, num_classes).float()


def cross_entropy(logits: Tensor, targets: Tensor, *, weights: Tensor, label_smoothing: float) -> Tensor:
    """Give -sum_c w_c t_c log p_c with smoothed t, [N]."""
    return F.cross_entropy(logits, targets, weight=weights, label_smoothing=label_smoothing, reduction="none")


def focal(logits: Tensor, targets: Tensor, *, gamma: float, label_smoothing: float) -> Tensor:
    """Give -sum_c t_c (1 - p_c)^gamma log p_c with smoothed t, [N] (Lin et al. 2017, eq. 4)."""
    smoothed = targets * (1 - label_smoothing) + label_smoothing / targets.shape[1]
    log_p = logits.log_softmax(dim=1)
    return -(smoothed * (1 - log_p.exp()).clamp(min=0) ** gamma * log_p).sum(dim=1)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Give one yes or no per class, one-vs-all, summed over classes, [N]."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)


def _per_example(settled: Settled, weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    smoothing = settled.label_smoothing
    if settled.loss == "focal":
        return lambda logits, targets: focal(logits, targets, gamma=settled.focal_gamma, label_smoothing=smoothing)
    if settled.loss == "bce":
        return binary_cross_entropy
    return lambda logits, targets: cross_entropy(logits, targets, weights=weights, label_smoothing=smoothing)


def _balanced(counts: Tensor) -> Tensor:
    # A class without an example has none to weigh; any finite number will do.
    return counts.sum() / (len(counts) * counts.clamp(min=1))


def _log_priors(counts: Tensor) -> Tensor:
    # Likewise: one imagined example keeps the logarithm finite.
    return (counts.clamp(min=1) / counts.clamp(min=1).sum()).log()
