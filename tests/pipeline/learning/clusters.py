"""Synthetic features: Gaussian clusters around random directions."""

from __future__ import annotations

import torch
from torch import Tensor


def clusters(*, num: int, dim: int, num_classes: int, separation: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Give [num, dim] features of unit noise, whose class means have the length `separation`, and [num] targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(num) % num_classes
    means = torch.nn.functional.normalize(torch.randn(num_classes, dim, generator=generator), dim=1) * separation
    return torch.randn(num, dim, generator=generator) + means[targets], targets
