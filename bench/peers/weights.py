"""Takes an architecture and some photos. Gives a file of random weights whose answers differ from photo to photo.

Untrained weights give every photo one label, which would hide a peer that mixes photos up. So the means and variances
of BatchNorm are those of the photos, and the last layer's mean output is zero. Knows nothing of peers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bench.peers import network

#: photos that the statistics are taken of
NUM_PHOTOS = 64


def save(arch: str, num_classes: int, photos: Sequence[str], file: Path, *, seed: int = 0) -> None:
    """Write the state_dict; the same for the same seed and photos."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = network.build(arch, num_classes)
    ready = network.Network.of(arch, module)
    images_NCHW = ready.normalized([ready.pixels(photo) for photo in photos[:NUM_PHOTOS]])  # noqa: N806
    with torch.no_grad():
        _settle(module, images_NCHW)
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        last.bias -= module.eval()(images_NCHW).mean(0)
    torch.save(module.state_dict(), file)


def _settle(module: nn.Module, images_NCHW: torch.Tensor) -> None:  # noqa: N803
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean of what is seen
            layer.reset_running_stats()
    module.train()(images_NCHW)
