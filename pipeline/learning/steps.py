"""Takes a network in training and batches of uint8 images with their targets.

Gives steps of the optimizer: mixed precision, micro-batches where memory is short, mixup, clipped gradients.
Knows nothing of epochs, files or validation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import devices
from pipeline.learning import optimizers
from pipeline.learning.losses import Loss
from pipeline.learning.recipes import Settled
from pipeline.learning.worlds import World

logger = logging.getLogger(__name__)


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """Turn a recipe's precision into a dtype; auto is bf16 where the device computes in it, else fp32.

    On CPUs that is AMX: measured with mobilenet_v2 at 224, 27 ms an image against 55 ms in fp32.
    """
    if setting == "auto" and device.type == "cpu":
        return torch.bfloat16 if torch.cpu.get_capabilities().get("amx_bf16", False) else torch.float32
    return torch.float16 if setting == "fp16" else devices.choose_precision(setting, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """What one step saw, as scalars on the device: to read them is to wait for it."""

    #: summed over this process's examples
    loss: Tensor
    #: examples whose likeliest class was right
    num_right: Tensor


class Stepper:
    """Takes steps with one optimizer, and remembers how much fits the memory."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        settled: Settled,
        device: torch.device,
        world: World,
        micro_batch: int,
    ) -> None:
        """Step `network`, which is on `device` and frozen as it should be.

        `micro_batch` images at a time, at most: fewer than this process's `share` is what an earlier try could not fit.
        """
        self.network = world.wrap(network)
        self.optimizer, self.loss, self.settled, self.world = optimizer, loss, settled, world
        self.device, self.micro_batch = device, micro_batch
        self.dtype = choose_precision(settled.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self.notes: list[str] = []
        if micro_batch < share(settled, world):
            self._note_halved()

    def step(self, images_NCHW: Tensor, targets: Tensor, *, weight: Tensor, num: int, scale: float) -> Stepped:  # noqa: N803
        """Take one step towards targets fp32 [N, C] at `scale` times the peak learning rate.

        Only the first `num` examples count. `weight` is that of the whole batch, over all processes. Where memory runs
        out the batch is done again in halves, unless it is one image: then torch.OutOfMemoryError is raised.
        """
        optimizers.set_scale(self.optimizer, self.peaks, scale)
        while True:
            try:
                stepped = self._gradients(images_NCHW, targets, weight, num)
                break
            except torch.OutOfMemoryError:
                # With other processes there is no going back: they wait for this one's gradients.
                if self.micro_batch == 1 or self.world.size > 1:
                    raise
            # Out of the except block, so that the failed attempt's tensors are gone.
            self._halve()
        self._apply()
        return stepped

    def learning_rate(self) -> float:
        """Give the rate of the last step, of the part that learns fastest: the head, in all but odd recipes."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def state(self) -> dict[str, object]:
        """Give what `load` needs to go on from here."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "micro_batch": self.micro_batch,
            "notes": list(self.notes),
        }

    def load(self, state: Mapping[str, object]) -> None:
        """Take up what `state` gave."""
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.scaler.load_state_dict(state["scaler"])  # type: ignore[arg-type]
        self.micro_batch = min(self.micro_batch, int(state["micro_batch"]))  # type: ignore[call-overload]
        self.notes = list(state["notes"])  # type: ignore[call-overload]

    def _gradients(self, images_NCHW: Tensor, targets: Tensor, weight: Tensor, num: int) -> Stepped:  # noqa: N803
        self.optimizer.zero_grad(set_to_none=True)
        parts, num_left = [], num
        # In equal parts, so that none is left with a single image, which BatchNorm cannot learn from.
        num_parts = -(-len(targets) // self.micro_batch)
        rows = list(zip(images_NCHW.tensor_split(num_parts), targets.tensor_split(num_parts), strict=True))
        for part, (images, wanted) in enumerate(rows):
            with nullcontext() if part == num_parts - 1 else self.world.unsynced(self.network):
                parts.append(self._backward(images, wanted, weight, max(0, min(num_left, len(wanted)))))
            num_left -= len(wanted)
        return Stepped(
            loss=torch.stack([part.loss for part in parts]).sum(),
            num_right=torch.stack([part.num_right for part in parts]).sum(),
        )

    def _backward(self, images_NCHW: Tensor, targets: Tensor, weight: Tensor, num: int) -> Stepped:  # noqa: N803
        self.world.counting(num)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.network(images_NCHW)
        each = self.loss.each(logits, targets)
        is_right = logits.detach().argmax(dim=1) == targets.argmax(dim=1)
        if num < len(targets):  # to be zero and not cut off: every parameter must have its gradient
            is_counted = torch.arange(len(targets), device=self.device) < num
            each, is_right = each * is_counted, is_right & is_counted
        loss = each.sum()
        # The processes' gradients are averaged, and should be summed.
        torch.autograd.backward(self.scaler.scale(loss * (self.world.size / weight)))
        return Stepped(loss=loss.detach(), num_right=is_right.sum())

    def _apply(self) -> None:
        if self.settled.gradient_clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(list(_trained(self.optimizer)), self.settled.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _halve(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.micro_batch = (self.micro_batch + 1) // 2
        self._note_halved()

    def _note_halved(self) -> None:
        num = -(-share(self.settled, self.world) // self.micro_batch)
        self.notes.append(f"out of memory: batch halved to {self.micro_batch}, accumulating {num}")
        logger.warning("out of memory: %s images at a time, accumulating %s", self.micro_batch, num)


def share(settled: Settled, world: World) -> int:
    """Give how many images of a batch each process takes."""
    return -(-settled.batch_size // world.size)


def mix(images_NCHW: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:  # noqa: N803
    """Blend each image and target with another of the batch, by one share from Beta(alpha, alpha) (Zhang 2018)."""
    share = float(rng.beta(alpha, alpha))
    partners = torch.from_numpy(rng.permutation(len(targets))).to(targets.device)
    return images_NCHW.lerp(images_NCHW[partners], 1 - share), targets.lerp(targets[partners], 1 - share)


def _trained(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]
