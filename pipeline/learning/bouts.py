"""Takes the logits of champion and challenger on the same frozen test images.

Gives the two side by side, image by image and class by class, or says why they cannot stand there.
Knows nothing of policies or verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import GateInvalid
from pipeline.learning import evaluation, paired


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """One version's answers on the frozen test images."""

    version: str
    #: names of the outputs, in order
    classes: tuple[str, ...]
    #: [N, C]; removed classes are columns of minus infinity (evaluation.mask)
    logits: Tensor
    temperature: float
    #: of the test images and their labels
    test_digest: str
    preprocess_digest: str
    #: of one image in a full batch, both versions timed by turns; None where that was not measured
    seconds_per_image: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """Both versions on the test images of one class."""

    name: str
    #: images
    num: int
    #: of these, right by the champion alone, and by the challenger alone
    lost: int
    gained: int
    #: loss of recall, -1..1
    drop: float
    #: exact one-sided p of the claim that nothing was lost
    p_worse: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bout:
    """Champion and challenger on the test images of the classes that both know."""

    challenger: Measured
    champion: Measured
    #: [N], class numbers of those images
    targets: NDArray[np.int64]
    #: [N, C] of those images, by each
    logits: Tensor
    champion_logits: Tensor
    #: with every answer that either may give
    pair: paired.Paired
    #: with the challenger's best answer among the classes that both know; the same where it knows no others
    shared_pair: paired.Paired
    #: share of the images of classes that only the challenger knows which it recognises; None without such images
    new_recall: float | None

    @property
    def new_classes(self) -> tuple[str, ...]:
        """Names that only the challenger knows."""
        return self.challenger.classes[len(self.champion.classes) :]

    @property
    def num_taken(self) -> int:
        """Images of known classes that the challenger takes for a new one."""
        return int((answers(self.logits) >= len(self.champion.classes)).sum())

    @property
    def num_lost(self) -> int:
        """Images that the champion alone has right."""
        return int(self.pair.lost.sum())

    @property
    def num_gained(self) -> int:
        """Images that the challenger alone has right."""
        return int(self.pair.gained.sum())

    @property
    def p_better(self) -> float:
        """Exact one-sided p of the claim that nothing was gained."""
        return paired.p_better(self.num_lost, self.num_gained)

    @property
    def shared_logits(self) -> Tensor:
        """The challenger's logits of the classes that both know."""
        return self.logits[:, : len(self.champion.classes)]

    def balanced_accuracies(self) -> tuple[float, float]:
        """Give the challenger's and the champion's mean recall of the classes with images, telling these apart only."""
        return self._balanced(self.shared_logits), self._balanced(self.champion_logits)

    def nlls(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the NLL [N] of the images, nats, by the challenger and the champion, after their temperatures.

        Both share probability 1 among the classes that both know: to know more is no fault of the scores.
        """
        targets = torch.from_numpy(self.targets)
        now = evaluation.negative_log_likelihoods(self.shared_logits, targets, self.challenger.temperature)
        before = evaluation.negative_log_likelihoods(self.champion_logits, targets, self.champion.temperature)
        return now.numpy(), before.numpy()

    def class_rows(self) -> list[ClassRow]:
        """Give the classes that have images, in order."""
        columns = (self.pair.num.tolist(), self.pair.lost.tolist(), self.pair.gained.tolist())
        return [_row(*values) for values in zip(self.champion.classes, *columns, strict=True) if values[1]]

    def whole(self) -> ClassRow:
        """Give all classes that both know as one."""
        return _row("the known classes together", len(self.targets), self.num_lost, self.num_gained)

    def _balanced(self, logits: Tensor) -> float:
        present = self.pair.num > 0
        right = np.bincount(self.targets[answers(logits) == self.targets], minlength=len(present))
        return float((right[present] / self.pair.num[present]).mean()) if present.any() else 0.0


def check_comparable(challenger: Measured, champion: Measured | None, targets: NDArray[np.int64]) -> None:
    """Raise GateInvalid where the two were not measured on the same images, by these class numbers [N]."""
    for measured in (challenger, champion) if champion else (challenger,):
        if measured.test_digest != challenger.test_digest:
            raise GateInvalid(f"{challenger.version} and {measured.version} were measured on different test images.")
        if measured.logits.shape != (len(targets), len(measured.classes)):
            expected = f"{len(targets)} images and {len(measured.classes)} classes"
            raise GateInvalid(f"{measured.version} gave {list(measured.logits.shape)} logits for {expected}.")
    if len(targets) and not 0 <= targets.min() <= targets.max() < len(challenger.classes):
        raise GateInvalid(f"A test label is no class of {challenger.version}.")
    if (_scores(challenger)[np.arange(len(targets)), targets] == -np.inf).any():
        raise GateInvalid("A test image is labelled with a removed class.")


def problems(challenger: Measured, champion: Measured | None, *, must_share_preprocess: bool) -> Iterator[str]:
    """Say what keeps the challenger from serving in the champion's place, however good it is."""
    for measured in (challenger, champion) if champion else (challenger,):
        # What is infinite in every row is a class that was removed.
        scores = _scores(measured)
        removed = (scores == -np.inf).all(axis=0)
        if not np.isfinite(scores[:, ~removed]).all() or not 0 < measured.temperature < np.inf:
            yield f"{measured.version} gives logits or a temperature that are no numbers."
    if not champion:
        return
    if challenger.classes[: len(champion.classes)] != champion.classes:
        yield f"{challenger.version} lacks classes of {champion.version}, or has them in another order."
    if must_share_preprocess and challenger.preprocess_digest != champion.preprocess_digest:
        yield f"{challenger.version} does not preprocess images as {champion.version} does."


def meet(challenger: Measured, champion: Measured, targets: NDArray[np.int64]) -> Bout:
    """Put the two side by side; the challenger's first classes must be the champion's."""
    is_known = targets < len(champion.classes)
    known, new = targets[is_known], targets[~is_known]
    logits, champion_logits = challenger.logits[is_known], champion.logits[is_known]
    found = answers(challenger.logits[~is_known]) == new
    size, was_right = len(champion.classes), answers(champion_logits) == known
    return Bout(
        challenger=challenger,
        champion=champion,
        targets=known,
        logits=logits,
        champion_logits=champion_logits,
        pair=paired.count(known, was_right, answers(logits) == known, size),
        shared_pair=paired.count(known, was_right, answers(logits[:, :size]) == known, size),
        new_recall=float(found.mean()) if len(new) else None,
    )


def answers(logits: Tensor) -> NDArray[np.int64]:
    """Give the class numbers [N] that logits [N, C] answer."""
    numbers: NDArray[np.int64] = logits.argmax(dim=1).cpu().numpy()
    return numbers


def _scores(measured: Measured) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = measured.logits.detach().double().cpu().numpy()
    return scores


def _row(name: str, num: int, lost: int, gained: int) -> ClassRow:
    drop, p_worse = (lost - gained) / num, paired.p_better(gained, lost)
    return ClassRow(name=name, num=num, lost=lost, gained=gained, drop=drop, p_worse=p_worse)
