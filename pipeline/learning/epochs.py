"""Takes what was measured on the validation images before training and after each epoch.

Gives which of them is best, and whether to stop there.
Knows nothing of networks or of how they are trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from pipeline.learning.evaluation import Metrics
from pipeline.learning.recipes import Settled

#: evaluations in a row that an alarm needs
ALARMING = 3
#: nats by which the NLL must fall to count as gained, where it is the metric: the gate's own tolerance
NLL_GAIN = 0.02

Ending = Literal["early", "memorised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One pass over the training images, and the validation afterwards."""

    #: from 1; 0 is the network as it came, before any training
    number: int
    #: mean over the images as they were seen; None for epoch 0
    train_loss: float | None
    #: share of the images as they were seen (augmented, by a network in training); None for epoch 0
    train_accuracy: float | None
    val_nll: float
    val_accuracy: float
    val_balanced_accuracy: float
    val_macro_f1: float
    #: at the last step, of the part that learns fastest: the head
    learning_rate: float
    #: of training and validation together
    seconds: float
    #: training images per second of training
    images_per_s: float
    #: images in one forward pass, less than the recipe's where memory ran out
    batch_size: int
    #: whether the moving average of the weights was measured, as it was the better one
    is_average: bool = False

    def as_dict(self) -> dict[str, object]:
        """Give the fields as JSON values."""
        return asdict(self)


def best(history: Sequence[Epoch], metric: str) -> int:
    """Give the position of the best epoch, the first of equals."""
    return max(range(len(history)), key=lambda row: (*_score(history[row], metric), -row))


def better(average: Metrics, plain: Metrics, metric: str) -> bool:
    """Whether the averaged weights measure better than the plain ones, or as well."""
    if metric == "nll":
        return average.nll <= plain.nll
    return (float(getattr(average, metric)), -average.nll) >= (float(getattr(plain, metric)), -plain.nll)


def ending(history: Sequence[Epoch], settled: Settled, *, num_val: int, num_warmup_epochs: int) -> Ending | None:
    """Say whether training should end after the last epoch of `history`, the first of which is number 0.

    "memorised": nothing was gained (no epoch is better than the network as it came by more than one standard error
    over `num_val` images), and in each of the last three evaluations after the warm-up, none of them the best, the
    training accuracy was further above the validation accuracy than the recipe allows, or the NLL rose while the
    training loss fell. A head fitted on few images has a gap of its own, which is allowed too: measured, trashnet6
    with 20 images a class has 1.00 against 0.62 before the backbone trains. Where both losses rise the rate is high,
    and comes down again: measured, sign-digits10 fell from 0.82 to 0.46 so, and ended at 0.98.
    "early": the best epoch lies further back than the recipe's patience.
    """
    top = best(history, settled.metric)
    if not _has_gained(history[top], history[0], settled.metric, num_val):
        last = history[1 + num_warmup_epochs :][-ALARMING:]
        if len(last) == ALARMING and top < last[0].number and _is_memorising(history, settled.memorisation_gap):
            return "memorised"
    is_stale = 0 < settled.patience <= len(history) - 1 - top
    return "early" if is_stale else None


def _score(epoch: Epoch, metric: str) -> tuple[float, float]:
    """Give what makes an epoch better, greater is better: the metric, then the NLL."""
    if metric == "nll":
        return -epoch.val_nll, epoch.val_balanced_accuracy
    values = {
        "balanced_accuracy": epoch.val_balanced_accuracy,
        "accuracy": epoch.val_accuracy,
        "macro_f1": epoch.val_macro_f1,
    }
    return values[metric], -epoch.val_nll


def _has_gained(top: Epoch, start: Epoch, metric: str, num_val: int) -> bool:
    (now, _), (then, _) = _score(top, metric), _score(start, metric)
    error = NLL_GAIN if metric == "nll" else math.sqrt(then * (1 - then) / num_val)
    return now - then > error


def _is_memorising(history: Sequence[Epoch], allowed: float) -> bool:
    last, before = history[-ALARMING:], history[-ALARMING - 1 : -1]
    # During the first epoch, in which the rate only begins to rise, the head is much as it came.
    own = max(0.0, _gap(history[1], history[0]))
    is_apart = all(_gap(epoch, epoch) - own > allowed for epoch in last)
    is_rising = all(
        now.val_nll > then.val_nll and _has_learned(now, then) for now, then in zip(last, before, strict=True)
    )
    return is_apart or is_rising


def _has_learned(now: Epoch, then: Epoch) -> bool:
    return now.train_loss is not None and (then.train_loss is None or now.train_loss < then.train_loss)


def _gap(trained: Epoch, measured: Epoch) -> float:
    return (trained.train_accuracy or 0.0) - measured.val_accuracy
