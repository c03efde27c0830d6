"""Takes a network, its layers and a settled recipe.

Gives it as it trains: on its device, frozen as the recipe says, with the moving average of its weights beside it.
Knows nothing of data, losses or steps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.learning import averages
from pipeline.learning import layers as parts
from pipeline.learning.layers import Layers
from pipeline.learning.recipes import Settled


class Student:
    """A network in training; the one it was made from is left as it is."""

    def __init__(self, network: nn.Module, layers: Layers, settled: Settled, device: torch.device) -> None:
        """Copy `network` to `device` and freeze it; the average starts from the same weights."""
        self._given, self._device = network, device
        self.network = _placed(network, device)
        #: prefixes of the names that are not trained
        self.frozen = parts.freeze(self.network, layers, settled.strategy)  # type: ignore[arg-type]
        if settled.batch_norm == "frozen":
            parts.freeze_batch_norm(self.network)
        self._names = [name for name in self.network.state_dict() if not name.startswith(self.frozen)]
        self.average: averages.Average | None = None
        if settled.ema is not None:
            twin = _placed(network, device).eval()
            self.average = averages.Average(self.network, twin, self._names, settled.ema)

    def frozen_sha256(self) -> str:
        """Give the sha256 of the tensors that are not trained, as they are now."""
        return parts.digest(self.network.state_dict(), self.frozen)

    def shapes(self) -> list[tuple[str, list[int]]]:
        """Give the name and shape of every tensor."""
        return [(name, list(tensor.shape)) for name, tensor in self.network.state_dict().items()]

    def copied(self, *, is_average: bool) -> dict[str, Tensor]:
        """Give copies of the trained tensors on the CPU, or of their average."""
        source = self.average.network if self.average is not None and is_average else self.network
        return {name: tensor.cpu().clone() for name, tensor in self._trained(source).items()}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Give the network as it came, in evaluation mode on the device, but for these tensors."""
        network = copy.deepcopy(self._given).to(self._device)
        network.load_state_dict({**network.state_dict(), **tensors})
        return network.eval()

    def state(self) -> dict[str, object]:
        """Give what `load` needs to go on from here; the tensors are the network's own."""
        if self.average is None:
            return {"network": self._trained(self.network)}
        average = {"average": self._trained(self.average.network), "num_average_steps": self.average.num_steps}
        return {"network": self._trained(self.network), **average}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.network.load_state_dict({**self.network.state_dict(), **state["network"]})
        if self.average is not None:
            twin = self.average.network
            twin.load_state_dict({**twin.state_dict(), **state["average"]})
            self.average.num_steps = state["num_average_steps"]

    def _trained(self, network: nn.Module) -> dict[str, Tensor]:
        everything = network.state_dict()
        return {name: everything[name] for name in self._names}


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    # channels_last is what convolutions want, on the CPU and on CUDA; other networks do not mind.
    placed: nn.Module = copy.deepcopy(network).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed
