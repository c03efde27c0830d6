"""Takes the process group that torch has opened.

Gives the world of several processes that train one network as one process would: gradients and BatchNorm's
statistics of the whole batch.
Knows nothing of how the processes were started, or of what they train.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


class Group:
    """All processes of torch's default group; this one computes on `device`."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        self._norms: list[SharedBatchNorm] = []

    def wrap(self, network: nn.Module) -> nn.Module:
        """Share BatchNorm's statistics, as far as they are trained, and average the gradients (DDP)."""
        self._share_statistics(network)
        devices = [self.device] if self.device.type == "cuda" else None
        # Statistics are the same everywhere already.
        return DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)

    def counting(self, num: int) -> None:
        """Leave what was only filled in out of BatchNorm's statistics; torch's own on CUDA cannot, and takes it in."""
        for norm in self._norms:
            norm.num = num

    def unsynced(self, network: nn.Module) -> AbstractContextManager[None]:
        """Keep gradients to this process inside the block."""
        if not isinstance(network, DistributedDataParallel):
            raise TypeError("Only what `wrap` gave has gradients that are shared.")
        quiet: AbstractContextManager[None] = network.no_sync()
        return quiet

    def total(self, tensor: Tensor) -> Tensor:
        """Give the sum over all processes, where `tensor` is."""
        moved = tensor.to(self.device)
        dist.all_reduce(moved)
        return moved.to(tensor.device)

    def _share_statistics(self, network: nn.Module) -> None:
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                # What layers.freeze keeps in evaluation mode has statistics that are not trained.
                if isinstance(child, _BatchNorm) and "train" not in vars(child):
                    parent.register_module(name, self._shared(child))

    def _shared(self, norm: _BatchNorm) -> nn.Module:
        if self.device.type == "cuda":
            converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
            return converted
        self._norms.append(SharedBatchNorm(norm))
        return self._norms[-1]


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, for gloo: torch's own SyncBatchNorm is for CUDA alone."""

    def __init__(self, norm: _BatchNorm) -> None:
        """Take the place of `norm`, with the same tensors, so that whoever holds them sees them change."""
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        #: images of the next batch that count
        self.num = 0
        self.training = norm.training

    def _check_input_dim(self, _input: Tensor) -> None:
        """Take inputs of any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's word
        """Normalise [N, C, ...] by the mean and variance of all processes' first `num` images."""
        if not self.training:
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        counted = input[: self.num].float()
        num = counted.new_tensor([counted.numel() / self.num_features])
        sums = _Sum.apply(torch.cat([counted.sum(dims), counted.square().sum(dims), num]))
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        variance = (square - mean.square()).clamp(min=0)
        self._remember(mean.detach(), variance.detach(), sums[-1].detach())
        shape = [1, -1] + [1] * (input.ndim - 2)
        scale = torch.rsqrt(variance + self.eps)
        normal = (input.float() - mean.view(shape)) * scale.view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        shaped: Tensor = normal.to(input.dtype)
        return shaped

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, num: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * num / (num - 1).clamp(min=1), share)


class _Sum(torch.autograd.Function):
    """The sum over all processes, and of the gradients on the way back."""

    @staticmethod
    def forward(_context: object, tensor: Tensor) -> Tensor:
        """Sum the values."""
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> Tensor:
        """Sum the gradients."""
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
