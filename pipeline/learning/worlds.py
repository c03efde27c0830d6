"""Takes nothing, for a process that trains alone.

Gives what the loop asks of the processes it trains with: whose rows are whose, sums over all, one gradient.
Knows nothing of how processes are started or talk to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor, nn


class World(Protocol):
    """The processes that train one network together."""

    #: which of them this is, from 0
    rank: int
    #: how many they are
    size: int

    def wrap(self, network: nn.Module) -> nn.Module:
        """Give the module to call in training, whose gradients are the mean over all processes."""
        ...

    def counting(self, num: int) -> None:
        """Say how many of the images of the next forward pass count in BatchNorm's statistics."""
        ...

    def unsynced(self, network: nn.Module) -> AbstractContextManager[None]:
        """Keep gradients to this process inside the block: another micro-batch of the same step follows."""
        ...

    def total(self, tensor: Tensor) -> Tensor:
        """Give the sum over all processes."""
        ...


class Alone:
    """One process."""

    rank, size = 0, 1

    def wrap(self, network: nn.Module) -> nn.Module:
        """Give the network itself."""
        return network

    def counting(self, num: int) -> None:
        """Do nothing: all of them count."""

    def unsynced(self, network: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing."""
        return nullcontext()

    def total(self, tensor: Tensor) -> Tensor:
        """Give the tensor itself."""
        return tensor


def own(rows: Sequence[int], world: World) -> list[int]:
    """Give this process's share of a batch's rows: r, r + size, ..., filled up to as many as every other has.

    All processes must take the same steps together. What is filled in comes last and must not count (`num_own`).
    """
    mine = list(rows[world.rank :: world.size])
    most = -(-len(rows) // world.size)
    return mine + list(rows[:1]) * (most - len(mine))


def num_own(num_rows: int, world: World) -> int:
    """Give how many rows of a batch of `num_rows` count in this process."""
    return len(range(world.rank, num_rows, world.size))
