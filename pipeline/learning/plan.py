"""Takes how many labels there are and how well a frozen backbone tells them apart.

Gives the cell of the lecture's table, what to train because of it, and why.
Knows nothing of images, features or networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import RecipeInvalid

Amount = Literal["scarce", "grey", "plentiful"]
Likeness = Literal["similar", "grey", "dissimilar"]
#: what is trained: the head alone, the head and the backbone's last stage, everything
Strategy = Literal["head", "last_stage", "all"]


#: what a plan that says no trains when it is forced
FORCED: tuple[Strategy, ...] = ("head", "last_stage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Where one cell of the table ends and the next begins (science: no published values, so configuration)."""

    #: training images; fewer are scarce (Kornblith 2019, 4.7: fixed features hold their own from 47 to 800; measured:
    #: 760 images of six kinds of rubbish gain from fine-tuning, 120 and 255 do not)
    scarce_num: int = 500
    #: training images of the median class; fewer are scarce
    scarce_per_class: float = 10
    #: training images; as many are plentiful, if the median class has enough too
    plentiful_num: int = 2000
    #: training images of the median class; as many are plentiful
    plentiful_per_class: float = 25
    #: few-shot score; as much is similar, if the backbone also beats the controls
    similar: float = 0.75
    #: few-shot score; less is dissimilar
    dissimilar: float = 0.50

    def __post_init__(self) -> None:
        if self.scarce_num > self.plentiful_num or self.scarce_per_class > self.plentiful_per_class:
            raise RecipeInvalid("What is plentiful must not lie below what is scarce.")
        if not -1 <= self.dissimilar <= self.similar <= 1:
            raise RecipeInvalid("dissimilar and similar must lie in -1..1, and dissimilar not above similar.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to train, and why."""

    amount: Amount
    likeness: Likeness
    #: the cell of the lecture's table, in words
    cell: str
    #: what the lecture says of that cell
    lecture: str
    #: what to train; None where it is not recommended
    strategy: Strategy | None
    #: what competes on the validation images, the default first: another wins only by more than a standard error
    candidates: tuple[Strategy, ...]
    is_recommended: bool
    #: sentences
    reasons: tuple[str, ...]
    #: sentences: what to do instead, where it is not recommended
    instead: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    lecture: str
    candidates: tuple[Strategy, ...]
    why: str


_BETWEEN = "nothing certain: the data lie between its cells"
#: fine-tuning beats a linear model on fixed features in 179 of 192 pairs of data and network (Kornblith 2019): where
#: the features do not suffice clearly, it is what must be beaten
_TUNED = _Cell(
    lecture=_BETWEEN,
    candidates=("all", "head"),
    why="The frozen features do not suffice clearly, so all layers are trained from the head's solution; the head alone"
    " is kept if the validation images find it clearly better.",
)
_FROZEN = _Cell(
    lecture=_BETWEEN,
    candidates=("head", "all"),
    why="The frozen features suffice; all layers are trained too, from the head's solution, and kept if the validation"
    " images find them clearly better.",
)
#: the lecture's table with the answers of Kornblith 2019 and Kumar 2022 (science 2.2)
_CELLS: dict[tuple[Amount, Likeness], _Cell] = {
    ("plentiful", "similar"): _Cell(
        lecture="feature extraction: freeze the backbone, train the head",
        candidates=("head", "last_stage"),
        why="The frozen features suffice; with this many labels the last stage may still gain, so it is tried.",
    ),
    ("plentiful", "dissimilar"): _Cell(
        lecture="fine-tune all layers",
        candidates=("all", "head"),
        why="The frozen features do not suffice, and there are labels enough to train all layers from the head's"
        " solution.",
    ),
    ("scarce", "similar"): _Cell(
        lecture="feature extraction only",
        candidates=("head",),
        why="The frozen features suffice, and there are too few labels to train more than the head.",
    ),
    ("scarce", "dissimilar"): _Cell(
        lecture="not recommended: neither features nor labels suffice",
        candidates=(),
        why="The frozen features do not suffice, and there are too few labels to train others.",
    ),
}
_INSTEAD = (
    "Label more images; `labels suggest` says which.",
    "Choose a backbone that was trained on images more like these.",
    "Train the head anyway with --force, and let the gate judge it.",
)


def decide(
    num: int,
    num_per_class: float,
    similarity: float,
    gain: float | None,
    thresholds: Thresholds,
    *,
    has_signal: bool = True,
    labels_needed: str = "",
    forced: bool = False,
) -> Plan:
    """Find the cell and what follows from it (science 2.2).

    `num` counts training images, `num_per_class` those of the median class; `similarity` is the few-shot score
    (`similarity.Similarity.score`); `gain` is what pretraining adds to it over the controls, None if not measured;
    `has_signal` says whether the neighbours beat shuffled labels; `labels_needed` is the sentence of a learning
    curve, which heads what to do instead. A forced plan trains the head where it is not recommended, and the last
    stage against it.
    """
    amount, likeness = amount_of(num, num_per_class, thresholds), likeness_of(similarity, gain, thresholds)
    between = _FROZEN if likeness == "similar" else _TUNED
    cell = _CELLS.get((amount, likeness), between)
    is_recommended = bool(cell.candidates)
    candidates = cell.candidates or (FORCED if forced else ())
    return Plan(
        amount=amount,
        likeness=likeness,
        cell=f"{_words(amount, 'amount')}, {_words(likeness, 'similarity')}",
        lecture=cell.lecture,
        strategy=candidates[0] if candidates else None,
        candidates=candidates,
        is_recommended=is_recommended,
        reasons=(
            _amount_reason(num, num_per_class, amount, thresholds),
            _likeness_reason(similarity, gain, likeness, thresholds),
            *(() if has_signal else ("Neighbouring images agree no more than shuffled labels do: check the labels.",)),
            cell.why,
            *(("It was forced, so it is trained all the same.",) if forced and not is_recommended else ()),
        ),
        instead=() if is_recommended else (*((labels_needed,) if labels_needed else ()), *_INSTEAD),
    )


def amount_of(num: int, num_per_class: float, thresholds: Thresholds) -> Amount:
    """Place the numbers of training images, in all and of the median class."""
    if num < thresholds.scarce_num or num_per_class < thresholds.scarce_per_class:
        return "scarce"
    is_plentiful = num >= thresholds.plentiful_num and num_per_class >= thresholds.plentiful_per_class
    return "plentiful" if is_plentiful else "grey"


def likeness_of(similarity: float, gain: float | None, thresholds: Thresholds) -> Likeness:
    """Place the few-shot score; one that the controls reach too is an easy task and no sign of similarity."""
    if similarity < thresholds.dissimilar:
        return "dissimilar"
    is_similar = similarity >= thresholds.similar and (gain is None or gain > 0)
    return "similar" if is_similar else "grey"


def _words(place: Amount | Likeness, axis: str) -> str:
    return f"{axis} in between" if place == "grey" else place


def _amount_reason(num: int, num_per_class: float, amount: Amount, thresholds: Thresholds) -> str:
    bound = {
        "scarce": f"below {thresholds.scarce_num} or {thresholds.scarce_per_class:g}",
        "grey": f"neither below {thresholds.scarce_num} or {thresholds.scarce_per_class:g}"
        f" nor up to {thresholds.plentiful_num} and {thresholds.plentiful_per_class:g}",
        "plentiful": f"at least {thresholds.plentiful_num} and {thresholds.plentiful_per_class:g}",
    }[amount]
    return f"{num} training images, {num_per_class:g} of the median class: {_words(amount, 'amount')} ({bound})."


def _likeness_reason(similarity: float, gain: float | None, likeness: Likeness, thresholds: Thresholds) -> str:
    bound = {
        "similar": f"at least {thresholds.similar:g}",
        "grey": f"from {thresholds.dissimilar:g} to {thresholds.similar:g}",
        "dissimilar": f"below {thresholds.dissimilar:g}",
    }[likeness]
    if likeness == "grey" and similarity >= thresholds.similar:
        bound = "an untrained backbone or colours alone do as well, so the task is easy rather than similar"
    told = "the controls were not measured" if gain is None else f"{gain:+.2f} over the controls"
    return f"Few-shot score {similarity:.2f}, {told}: {_words(likeness, 'similarity')} ({bound})."
