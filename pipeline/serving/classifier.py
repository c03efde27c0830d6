"""Takes a checkpoint's reference.

Gives a warm network, checked on its parity fixture, that turns batches of images into predictions.
Knows nothing of references to images, jobs or versions.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from pipeline import checkpoints, devices, parity
from pipeline.cards import Card
from pipeline.errors import CheckpointBroken
from pipeline.preprocess import Preprocess
from pipeline.serving import folding

logger = logging.getLogger(__name__)

#: dtype -> the setting that asks for it
NAMES = {dtype: name for name, dtype in devices.PRECISIONS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the network says of one image."""

    label: str
    #: probability of the label, 0..1
    score: float
    #: (label, probability), best first; its first is `label`
    top_k: tuple[tuple[str, float], ...]


@dataclass(slots=True)
class Ceiling:
    """How many images have fitted the device at once."""

    #: None while any number has
    num_images: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Classifier:
    """A network in evaluation mode with all that its predictions need."""

    network: nn.Module
    card: Card
    device: torch.device
    #: of the network's arithmetic, but for BatchNorm and the softmax, which stay in fp32
    dtype: torch.dtype
    #: found out while it serves
    ceiling: Ceiling = field(default_factory=Ceiling)

    @classmethod
    def open(
        cls,
        reference: str,
        *,
        sha256: str | None,
        device: str | torch.device,
        precision: str,
        batch_size: int,
    ) -> Classifier:
        """Load, check and warm up; precision "auto" falls back to fp32 where bf16 misses the fixture.

        BatchNorms are folded into the convolutions, unless the fixture shows that this network bears it badly.
        Raise CheckpointBroken, StoreUnreachable or DeviceUnavailable.
        """
        place = device if isinstance(device, torch.device) else devices.choose_device(device)
        wanted = devices.choose_precision(precision, place)
        tried = [(wanted, True), (wanted, False)]
        if precision == "auto" and wanted != torch.float32:
            tried += [(torch.float32, True), (torch.float32, False)]
        for dtype, folds in tried:
            # Loaded anew for each: folding and casting change it for good.
            classifier, reason = cls._prove(checkpoints.load(reference, sha256=sha256), place, dtype, folds=folds)
            if not reason:
                classifier.warm_up(batch_size)
                return classifier
            how = f"in {NAMES[dtype]}{' with folded BatchNorms' if folds else ''}"
            logger.warning("%s is not served %s: it %s", reference, how, reason)
        raise CheckpointBroken(f"{reference} is not served: in {NAMES[dtype]} on {place} it {reason}.")

    @classmethod
    def _prove(
        cls, loaded: checkpoints.Loaded, device: torch.device, dtype: torch.dtype, *, folds: bool
    ) -> tuple[Classifier, str]:
        """Give the classifier, and what is wrong with it on the fixture (empty: nothing)."""
        if folds:
            folding.fold_batch_norms(loaded.network)
        network = _cast(loaded.network, dtype).to(memory_format=torch.channels_last).to(device)
        classifier = cls(network=network, card=loaded.card, device=device, dtype=dtype)
        fixture = loaded.parity
        try:
            logits = classifier.logits(fixture.images_NCHW)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a network that makes fp32 tensors of its own does not run in bf16
            return classifier, f"fails ({error})"
        gap = parity.parity_gap(lambda _: logits, fixture)
        if not gap <= parity.tolerance(device, dtype):
            return classifier, f"misses its parity fixture by {gap:.2g} deviations"
        if not torch.equal(logits.argmax(dim=1).cpu(), fixture.logits.argmax(dim=1)):
            return classifier, "gives other labels on its parity fixture"
        return classifier, ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self.card.classes

    @property
    def num_answers(self) -> int:
        """Classes that it may name."""
        return len(self.classes) - len(self.card.masked)

    @property
    def preprocess(self) -> Preprocess:
        """How images become this network's pixels."""
        return self.card.preprocess

    @property
    def num_bytes(self) -> int:
        """Bytes of its parameters and buffers."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def warm_up(self, batch_size: int) -> None:
        """Run one batch of each size that serving will see first."""
        size = self.preprocess.crop_size
        for num_images in batch_sizes(batch_size, self.device):
            self.predict(torch.zeros(num_images, 3, size, size, dtype=torch.uint8), top_k=1)

    def predict(self, images_NCHW: Tensor, *, top_k: int) -> list[Prediction]:  # noqa: N803
        """Classify uint8 [N, 3, S, S] on the CPU; one prediction per image, in order.

        Scores are softmax(logits / temperature) in fp32 over the classes that are not masked. Raise
        CheckpointBroken where the network does not give one finite row per image.
        """
        if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4:
            raise ValueError(f"Images must be uint8 [N, 3, S, S], not {images_NCHW.dtype} {images_NCHW.shape}.")
        if not len(images_NCHW):
            return []
        with torch.inference_mode():
            scores = torch.softmax(self._masked(self.logits(images_NCHW)) / self.card.temperature, dim=1).cpu()
        if scores.shape != (len(images_NCHW), len(self.classes)) or not scores.isfinite().all():
            raise CheckpointBroken(
                f"The network gave {list(scores.shape)} scores for {len(images_NCHW)} images, or not finite."
            )
        best = scores.topk(min(max(top_k, 1), self.num_answers), dim=1)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [self._prediction(indices, values) for indices, values in rows]

    def _masked(self, logits: Tensor) -> Tensor:
        columns = self.card.masked_numbers
        if columns and logits.shape[1] == len(self.classes):
            logits[:, list(columns)] = float("-inf")
        return logits

    def _prediction(self, indices: list[int], values: list[float]) -> Prediction:
        top_k = tuple((self.classes[index], value) for index, value in zip(indices, values, strict=True))
        return Prediction(label=top_k[0][0], score=top_k[0][1], top_k=top_k)

    def logits(self, images_NCHW: Tensor) -> Tensor:  # noqa: N803
        """Give fp32 logits [N, classes] on the device, in pieces where the device has no memory for all at once.

        What did not fit is remembered, so the next batch is cut before it fails.
        """
        done: list[Tensor] = []
        while not done or len(images_NCHW):
            piece = images_NCHW[: self.ceiling.num_images]
            try:
                done.append(self._forward(piece))
            except torch.OutOfMemoryError:
                if len(piece) == 1:
                    raise
                self.ceiling.num_images = (len(piece) + 1) // 2
                logger.warning("out of memory with %s images, from now on %s", len(piece), self.ceiling.num_images)
            else:
                images_NCHW = images_NCHW[len(piece) :]  # noqa: N806
        return torch.cat(done) if len(done) > 1 else done[0]

    def _forward(self, images_NCHW: Tensor) -> Tensor:  # noqa: N803
        images = images_NCHW.contiguous(memory_format=torch.channels_last)
        if self.device.type == "cuda":
            images = images.pin_memory()
        with torch.inference_mode():
            images = images.to(self.device, non_blocking=True)
            logits: Tensor = self.network(self.preprocess.normalize(images, self.dtype))
            return logits.float()


def batch_sizes(batch_size: int, device: torch.device) -> tuple[int, ...]:
    """Give the sizes to warm up: on CUDA powers of two up to the full batch, on CPU one and the full batch.

    A GPU picks kernels per shape and finds out here whether the largest fits; a CPU only fills caches.
    """
    if device.type == "cpu":
        return tuple(sorted({1, batch_size}))
    return (*(2**power for power in range(16) if 2**power < batch_size), batch_size)


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast all but the BatchNorms, whose running variances lose too much in bf16.

    Casting gives the same logits as autocast and casts the weights once instead of in every forward.
    """
    for module in network.modules():
        if not isinstance(module, _NormBase):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.to(dtype)
    return network
