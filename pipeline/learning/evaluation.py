"""Takes a network's logits and the labels of the same images.

Gives what they are worth: the temperature that makes scores honest, accuracy in its several senses, the confusion.
Knows nothing of champions, files or how the network was trained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor, nn

from pipeline.preprocess import Preprocess

logger = logging.getLogger(__name__)

#: lowest and highest temperature that is tried
TEMPERATURES = (0.05, 20.0)
#: spread of the prior on ln T. It weighs as much as one image: with many it vanishes, and on a validation split
#: without a single mistake it keeps T near 1 instead of at the lowest end, where every score would be 1.
TEMPERATURE_SPREAD = 1.0
#: equal bins of confidence (Guo et al. 2017)
NUM_BINS = 15
#: images below which the calibration error is not reported: at 200 a perfectly calibrated model shows 0.08
MIN_NUM_FOR_ECE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics:
    """How one class fares; the shares are None where there is no image of it."""

    name: str
    #: images of the class
    num: int
    #: share of its images that are found, 0..1
    recall: float | None
    #: share of the images called so that are so, 0..1; 0 where none is called so
    precision: float | None
    #: harmonic mean of both
    f1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """How a network fares on a set of labelled images."""

    #: images
    num: int
    accuracy: float
    #: mean recall of the classes that have images
    balanced_accuracy: float
    #: mean F1 of the classes that have images
    macro_f1: float
    #: mean negative log probability of the true class, nats, after the temperature
    nll: float
    #: mean squared distance of the probabilities from the truth, 0..2, after the temperature
    brier: float
    #: expected calibration error; None below MIN_NUM_FOR_ECE images
    ece: float | None
    #: in the order of the classes
    per_class: tuple[ClassMetrics, ...]
    #: images by true class (row) and predicted class (column)
    confusion: tuple[tuple[int, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Metrics:
        """Read what `as_dict` gave, before or after JSON."""
        per_class = tuple(ClassMetrics(**row) for row in fields["per_class"])
        confusion = tuple(tuple(row) for row in fields["confusion"])
        return cls(**{**fields, "per_class": per_class, "confusion": confusion})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Images whose confidence lies in (low, high]."""

    low: float
    high: float
    num: int
    #: mean confidence of the images, 0 where there is none
    confidence: float
    #: share of them that are right, 0 where there is none
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutOfFold:
    """Probabilities of items by heads that were trained without them: the only kind an audit may judge labels by."""

    #: [N, C]
    probabilities: Tensor
    #: [N], the fold that held the item out, from 0
    folds: Tensor

    def __post_init__(self) -> None:
        if self.probabilities.ndim != 2 or self.folds.shape != self.probabilities.shape[:1]:
            raise ValueError("Out-of-fold probabilities are [N, C] with a fold for each row.")
        if len(self.folds) and not 0 <= int(self.folds.min()) < int(self.folds.max()):
            raise ValueError("Every item must have been held out by one of at least two folds.")


def mask(logits: Tensor, numbers: Sequence[int]) -> Tensor:
    """Give the logits with removed classes at minus infinity: probability 0, never the answer."""
    if not numbers:
        return logits
    masked = logits.clone()
    masked[:, list(numbers)] = -torch.inf
    return masked


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Give the T that minimises the NLL of logits [N, C] / T, within TEMPERATURES (Guo et al. 2017).

    The labels it is fitted on must not be those the network was trained on. Without images it is 1.
    """
    if not len(targets):
        return 1.0
    scores, truth = logits.double().cpu(), targets.long().cpu()

    def cost(log_t: float) -> float:
        prior = 0.5 * (log_t / TEMPERATURE_SPREAD) ** 2 / len(truth)
        return float(nn.functional.cross_entropy(scores / np.exp(log_t), truth)) + prior

    # The NLL is convex in 1 / T, so along ln T it has one valley.
    found = optimize.minimize_scalar(cost, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Give softmax(logits / temperature) as float64 [N, C] on the CPU."""
    return torch.softmax(logits.double().cpu() / temperature, dim=1)


def negative_log_likelihoods(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Give the NLL of each image, nats, float64 [N] on the CPU."""
    return nn.functional.cross_entropy(logits.double().cpu() / temperature, targets.long().cpu(), reduction="none")


def measure(
    logits: Tensor, targets: Tensor, classes: Sequence[str], *, temperature: float = 1.0, masked: Sequence[int] = ()
) -> Metrics:
    """Measure logits [N, C] against class numbers [N]; `masked` are the numbers of removed classes.

    Raise ValueError where the shapes disagree or there is no image.
    """
    if logits.shape != (len(targets), len(classes)) or not len(targets):
        raise ValueError(f"{list(logits.shape)} logits do not fit {len(targets)} labels of {len(classes)} classes.")
    logits, truth = mask(logits.double().cpu(), masked), targets.long().cpu()
    predicted = logits.argmax(dim=1)
    confusion = confusion_matrix(truth, predicted, len(classes))
    per_class = _per_class(confusion, classes)
    shares = probabilities(logits, temperature)
    present = [row for row in per_class if row.num]
    return Metrics(
        num=len(truth),
        accuracy=float(np.trace(confusion)) / len(truth),
        balanced_accuracy=float(np.mean([row.recall for row in present])),
        macro_f1=float(np.mean([row.f1 for row in present])),
        nll=float(negative_log_likelihoods(logits, truth, temperature).mean()),
        brier=float((shares - nn.functional.one_hot(truth, len(classes))).square().sum(dim=1).mean()),
        ece=_calibration_error(logits, truth, temperature) if len(truth) >= MIN_NUM_FOR_ECE else None,
        per_class=per_class,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def confusion_matrix(truth: Tensor, predicted: Tensor, num_classes: int) -> NDArray[np.int64]:
    """Count images by true class (row) and predicted class (column)."""
    cells = torch.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    counts: NDArray[np.int64] = cells.reshape(num_classes, num_classes).numpy()
    return counts


def reliability(logits: Tensor, targets: Tensor, temperature: float, num_bins: int = NUM_BINS) -> tuple[Bin, ...]:
    """Sort the images by confidence into equal bins of 0..1; what is calibrated has accuracy = confidence in each."""
    confidence, predicted = probabilities(logits, temperature).max(dim=1)
    is_right = (predicted == targets.long().cpu()).double()
    rows = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    num = torch.bincount(rows, minlength=num_bins)
    sums = [torch.bincount(rows, weights=values, minlength=num_bins) for values in (confidence, is_right)]
    means = [total / num.clamp(min=1) for total in sums]
    return tuple(
        Bin(
            low=row / num_bins,
            high=(row + 1) / num_bins,
            num=int(num[row]),
            confidence=float(means[0][row]),
            accuracy=float(means[1][row]),
        )
        for row in range(num_bins)
    )


def forward(
    network: nn.Module,
    preprocess: Preprocess,
    batches: Iterable[Tensor],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Give fp32 logits [N, C] on the CPU for batches of uint8 [n, 3, S, S]; leave the network in eval mode.

    `network` is on `device` already; a `dtype` other than fp32 is autocast to. Batches that do not fit the memory
    are halved. Without images there is a [0, 0].
    """
    network.eval()
    with torch.inference_mode():
        rows = [_logits(network, preprocess, images, device, dtype) for images in batches]
    return torch.cat(rows) if rows else torch.empty(0, 0)


def _logits(
    network: nn.Module,
    preprocess: Preprocess,
    images_NCHW: Tensor,  # noqa: N803
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    images = images_NCHW.contiguous(memory_format=torch.channels_last)
    try:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits: Tensor = network(preprocess.normalize(images.to(device)))
        return logits.float().cpu()
    except torch.OutOfMemoryError:
        if len(images_NCHW) == 1:
            raise
        logger.warning("out of memory with %s images, trying half", len(images_NCHW))
    # Out of the except block, so that the failed attempt's tensors are gone.
    halves = torch.tensor_split(images_NCHW, 2)
    return torch.cat([_logits(network, preprocess, half, device, dtype) for half in halves])


def _per_class(confusion: NDArray[np.int64], classes: Sequence[str]) -> tuple[ClassMetrics, ...]:
    columns = (np.diag(confusion).tolist(), confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist())
    return tuple(_class_metrics(*row) for row in zip(classes, *columns, strict=True))


def _class_metrics(name: str, right: int, num: int, called: int) -> ClassMetrics:
    if not num:
        return ClassMetrics(name=name, num=0, recall=None, precision=None, f1=None)
    precision = right / called if called else 0.0
    return ClassMetrics(name=name, num=num, recall=right / num, precision=precision, f1=2 * right / (num + called))


def _calibration_error(logits: Tensor, targets: Tensor, temperature: float) -> float:
    bins = reliability(logits, targets, temperature)
    return sum(row.num * abs(row.accuracy - row.confidence) for row in bins) / len(targets)
