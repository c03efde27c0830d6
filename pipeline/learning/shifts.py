"""Takes a network with BatchNorm and images as it would be given them.

Gives how far the images' statistics lie from those the network was trained on; it needs neither labels nor its data.
Knows nothing of classes, or of what is done about it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

#: BatchNorm layers that keep statistics
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Sums:
    """Sums of one layer's inputs over images and places, by channel, in float64."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        self.num = 0
        self.total = torch.zeros(norm.num_features, dtype=torch.float64)
        self.squares = torch.zeros(norm.num_features, dtype=torch.float64)

    def add(self, _norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Take the input of one forward; shaped as a forward pre-hook."""
        values = inputs[0].detach().transpose(0, 1).flatten(1).double().cpu()
        self.num += values.shape[1]
        self.total += values.sum(1)
        self.squares += values.square().sum(1)


@torch.inference_mode()
def batch_norm_distance(network: nn.Module, batches: Iterable[Tensor]) -> float | None:
    """Give the median over BatchNorm layers of d = mean_channels((mu - mu_r)^2 + (sigma - sigma_r)^2) / sigma_r^2.

    `batches` are normalised images [N, C, H, W] on the network's device; mu_r and sigma_r are the running statistics.
    The network is left as it was, and must be in eval mode. None without such layers, or without images.
    A diagnostic: plausible, unpublished in this form (science 1.2).
    """
    norms = [module for module in network.modules() if isinstance(module, NORMS) and module.running_var is not None]
    sums = [_Sums(norm) for norm in norms]
    hooks = [norm.register_forward_pre_hook(found.add) for norm, found in zip(norms, sums, strict=True)]
    try:
        for images_NCHW in batches:  # noqa: N806
            network(images_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    distances = [_distance(norm, found) for norm, found in zip(norms, sums, strict=True) if found.num]
    return float(torch.tensor(distances).median()) if distances else None


def _distance(norm: nn.modules.batchnorm._BatchNorm, found: _Sums) -> float:
    mean = found.total / found.num
    std = (found.squares / found.num - mean.square()).clamp(min=0).sqrt()
    stored_mean, stored_var = norm.running_mean, norm.running_var
    if stored_mean is None or stored_var is None:
        return 0.0
    stored = stored_var.double().cpu() + norm.eps
    return float((((mean - stored_mean.double().cpu()).square() + (std - stored.sqrt()).square()) / stored).mean())
