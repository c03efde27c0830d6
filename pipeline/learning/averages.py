"""Takes a network in training.

Gives a moving average of its weights and BatchNorm statistics whose horizon fits the run, and a way to loosen the
weights of an old network before it is trained again.
Knows nothing of data, losses or optimizers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: how fast the decay approaches its most: 0.9906 after 500 steps (timm's ModelEmaV3, power 3/4 for short runs)
POWER = 0.75
#: deviation of the noise of shrink-perturb, as a share of each tensor's own (Ash & Adams 2020 use 0.01 of unit-scale)
PERTURB = 0.01


def decay(step: int, most: float) -> float:
    """Give how much of the average stays at step 1, 2, ...: min(most, 1 - (1 + step)^-0.75)."""
    return min(most, 1.0 - math.pow(1.0 + step, -POWER))


def leftover(num_steps: int, most: float) -> float:
    """Give the share of the initial weights that is still in the average after so many steps."""
    left = 1.0
    for step in range(1, num_steps + 1):
        left *= decay(step, most)
    return left


class Average:
    """The moving average of a network's trained tensors, held in a second network of the same build.

    Buffers are averaged too: BatchNorm's running statistics belong to the weights that made them.
    """

    def __init__(self, network: nn.Module, twin: nn.Module, names: Iterable[str], most: float) -> None:
        """Average the tensors called `names` of `network` into `twin`, which holds the same values now."""
        self.network, self.most, self.num_steps = twin, most, 0
        ours, theirs = twin.state_dict(), network.state_dict()
        names = list(names)
        floating = [name for name in names if theirs[name].is_floating_point()]
        self._into, self._from = [ours[name] for name in floating], [theirs[name] for name in floating]
        # BatchNorm's step counter is a whole number.
        self._counters = [(ours[name], theirs[name]) for name in names if name not in floating]

    def update(self) -> None:
        """Take in the network's present weights."""
        self.num_steps += 1
        with torch.no_grad():
            torch._foreach_lerp_(self._into, self._from, 1.0 - decay(self.num_steps, self.most))
            for into, source in self._counters:
                into.copy_(source)


# ---------------------------------------------------------------- shrink and perturb


def shrink_perturb(network: nn.Module, names: Iterable[str], *, keep: float, seed: int) -> None:
    """Scale the matrices and kernels among `names` by `keep` and add noise: theta <- keep theta + sigma eps.

    Biases and normalisation layers stay. Where BatchNorm is used its statistics no longer fit afterwards:
    call `refresh_statistics` before anything is measured or frozen (Ash & Adams 2020).
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name in names:
            parameter = parameters.get(name)
            if parameter is not None and parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                spread = PERTURB * float(parameter.std(correction=0))
                parameter.mul_(keep).add_(noise, alpha=spread)


def refresh_statistics(network: nn.Module, batches_NCHW: Iterable[Tensor]) -> None:  # noqa: N803
    """Measure every BatchNorm's statistics anew on normalised batches, as the plain mean over them."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta, was_training = [module.momentum for module in norms], network.training
    network.eval()
    for module in norms:
        module.reset_running_stats()
        module.momentum = None
        module.training = True
    with torch.no_grad():
        for images_NCHW in batches_NCHW:  # noqa: N806
            network(images_NCHW)
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    network.train(was_training)
