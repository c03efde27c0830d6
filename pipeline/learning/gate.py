"""Takes champion's and challenger's logits on the same frozen test images.

Gives a verdict: promote, hold, reject or underpowered, with a sentence and every number behind it.
Knows nothing of training, versions in a registry or who acts on the verdict.

The checks of a challenger, in order; the gravest failure is the verdict:

    integrity        finite logits, the champion's preprocessing, the champion's classes with at most new ones behind
    non_inferiority  balanced accuracy is not worse by more than a margin that shrinks with the number of images
    classes          no class has lost significantly and noticeably
    nll              calibrated probabilities are not significantly and noticeably poorer
    latency          it is not slower
    reason           it is better, or something asks for a new version
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from pipeline.errors import RecipeInvalid
from pipeline.learning import abstention, bouts, paired
from pipeline.learning.bouts import Bout

#: what `judge` takes of each version
Measured = bouts.Measured
Outcome = Literal["promote", "hold", "reject", "underpowered"]

#: the gravest first
GRAVITY: tuple[Outcome, ...] = ("reject", "underpowered", "hold", "promote")
#: tests that may call a challenger worse (overall, in a class, in its scores). They share alpha, so that an equal one
#: is rejected at most alpha of the time; Holm's family of classes keeps all of it, for exact tests use less than half.
NUM_GUARDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """What a challenger must show. The defaults are those of docs/learning.md; all are recorded with each verdict."""

    #: (images from which it holds, tolerated loss of balanced accuracy), most images first; at a discordance of
    #: 10 % 1.645 standard errors just fit: 0.98 points at 2,800 images, 1.97 at 700, 3.0 at 300
    margins: tuple[tuple[int, float], ...] = ((2_800, 0.01), (700, 0.02), (0, 0.03))
    #: one-sided error that each test, and all tests of classes together, may have
    alpha: float = 0.05
    #: resamples of the bootstrap
    num_resamples: int = 2_000
    #: images that a class needs to be judged on its own
    min_class: int = 20
    #: loss of recall below which even a significant one is tolerated
    max_class_drop: float = 0.05
    #: loss of recall that is warned of, significant or not
    warn_class_drop: float = 0.10
    #: nats by which the NLL may rise
    max_nll_rise: float = 0.02
    #: share by which the seconds per image may rise
    max_slowdown: float = 0.10
    #: what asks for a new version that is merely no worse
    causes: frozenset[str] = frozenset({"new_class", "drift", "age"})
    #: the challenger must see the same pixels as the champion
    must_share_preprocess: bool = True

    def margin(self, num_images: int) -> float:
        """Give the tolerated loss of balanced accuracy on so many images."""
        return next(margin for num, margin in self.margins if num_images >= num)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return {**asdict(self), "margins": [list(step) for step in self.margins], "causes": sorted(self.causes)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> GatePolicy:
        """Read some or all fields of what `as_dict` gave; raise RecipeInvalid for an unknown name or a bad value."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise RecipeInvalid(f"The gate has no setting {name!r}" + (f"; {near[0]!r}?" if near else "."))
        try:
            return replace(cls(), **{name: _setting(name, value) for name, value in given.items()})
        except (TypeError, ValueError) as error:
            raise RecipeInvalid(f"A setting of the gate has no sense: {error}.") from error

    def __post_init__(self) -> None:
        steps = [num for num, _ in self.margins]
        if not steps or steps[-1] != 0 or steps != sorted(steps, reverse=True):
            raise RecipeInvalid("The gate's margins go from many images to 0.")
        if not 0 < self.alpha < 0.5 or self.num_resamples < 100 or self.min_class < 1:
            raise RecipeInvalid("alpha lies in 0..0.5, num_resamples is 100 or more and min_class 1 or more.")
        if min(*(margin for _, margin in self.margins), self.max_class_drop, self.max_nll_rise, self.max_slowdown) < 0:
            raise RecipeInvalid("What the gate tolerates cannot be negative.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question to the challenger, and its answer."""

    #: "integrity", "non_inferiority", "classes", "nll", "latency", "reason" or "majority"
    name: str
    #: None where it could not be asked
    passed: bool | None
    #: the answer for a person
    sentence: str
    #: the verdict that it asks for; "promote" where it passed
    asks_for: Outcome
    #: JSON values
    numbers: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of the challenger."""

    verdict: Outcome
    #: one sentence
    reason: str
    checks: tuple[Check, ...]
    #: sentences about what is no veto
    warnings: tuple[str, ...]
    #: JSON values: what was compared, and the policy
    numbers: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Give everything as JSON values, for the ledger."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Verdict:
        """Read what `as_dict` gave, before or after JSON."""
        checks = tuple(Check(**check) for check in given["checks"])
        return cls(**{**given, "checks": checks, "warnings": tuple(given["warnings"])})


def judge(
    challenger: Measured,
    champion: Measured | None,
    targets: Sequence[int] | NDArray[np.int64] | Tensor,
    policy: GatePolicy | None = None,
    *,
    causes: frozenset[str] = frozenset(),
    seed: int = 0,
) -> Verdict:
    """Judge the challenger by the class numbers [N] of the test images; the same arguments give the same verdict.

    `causes` says what asks for a new version ("drift", "age", ...); "new_class" is found here. Without a champion
    the challenger must beat the majority class. Raise GateInvalid where the two were not measured on the same images.
    """
    policy, truth = policy or GatePolicy(), np.asarray(targets, dtype=np.int64)
    bouts.check_comparable(challenger, champion, truth)
    integrity = _integrity(challenger, champion, policy)
    facts: dict[str, Any] = {"challenger": challenger.version, "champion": champion.version if champion else None}
    facts |= {"test_digest": challenger.test_digest, "num_images": len(truth), "seed": seed}
    facts |= {"causes": sorted(causes), "policy": policy.as_dict()}
    if not integrity.passed:
        return _decide([integrity], (), facts)
    if champion is None:
        return _decide([integrity, _majority(challenger, truth, policy)], (), facts)
    bout = bouts.meet(challenger, champion, truth)
    facts |= {"num_compared": len(bout.targets), "discordance": bout.pair.discordance}
    facts |= {"new_classes": list(bout.new_classes), "new_recall": bout.new_recall}
    checks = [
        integrity,
        _non_inferiority(bout, policy, seed),
        _classes(bout, policy),
        _nll(bout, policy),
        _latency(bout, policy),
        _reason(bout, policy, causes),
    ]
    return _decide(checks, tuple(_warnings(bout, policy)), facts)


def _integrity(challenger: Measured, champion: Measured | None, policy: GatePolicy) -> Check:
    """G0: it may stand in the champion's place at all."""
    found = bouts.problems(challenger, champion, must_share_preprocess=policy.must_share_preprocess)
    problem = next(found, "")
    numbers = {"preprocess_digest": challenger.preprocess_digest, "num_classes": len(challenger.classes)}
    sentence = problem or "Logits, classes and preprocessing are sound."
    return _check("integrity", not problem, sentence, "reject", numbers)


def _non_inferiority(bout: Bout, policy: GatePolicy, seed: int) -> Check:
    """G1: the lower bound of the difference lies above -margin, on images enough to tell.

    Too few images are made up for by a challenger that is better by the exact test, which holds for any number.
    Where it knows new classes it is asked to tell those apart that both know: the champion could not be misled by the
    others. What it takes for a new one is for the check of the classes to judge.
    """
    pair, margin = bout.shared_pair, policy.margin(bout.shared_pair.num_images)
    found = paired.difference(pair, margin, alpha=policy.alpha, num_resamples=policy.num_resamples, seed=seed)
    p_better = paired.p_better(int(pair.lost.sum()), int(pair.gained.sum()))
    is_powered, is_no_worse = found.half_width <= margin or p_better < policy.alpha, found.lower > -margin
    now, before = bout.balanced_accuracies()
    numbers = {**asdict(found), "margin": margin, "num": pair.num_images, "is_powered": is_powered}
    numbers |= {"challenger": now, "champion": before}
    among = " among the classes that both know" if bout.new_classes else ""
    sentence = (
        f"Balanced accuracy{among} {now:.3f} against {before:.3f} on {pair.num_images} images: "
        f"{found.estimate * 100:+.1f} points, {found.lower * 100:+.1f} at least ({1 - policy.alpha:.0%} sure), "
        f"{-margin * 100:+.1f} tolerated"
    )
    if not is_no_worse and found.p_worse < policy.alpha / NUM_GUARDS:
        return _check("non_inferiority", False, f"{sentence}; it is worse.", "reject", numbers)
    if not is_powered:
        sentence = f"{sentence}; too few test images to tell{_scarcest(bout)}."
        return _check("non_inferiority", False, sentence, "underpowered", numbers)
    ending = "." if is_no_worse else "; it may be worse."
    return _check("non_inferiority", is_no_worse, sentence + ending, "hold", numbers)


def _classes(bout: Bout, policy: GatePolicy) -> Check:
    """G2: no class with images enough has lost significantly (exact test, Holm over classes) and noticeably.

    Where the challenger knows new classes, the known ones together are judged like one more class.
    """
    judged = [row for row in bout.class_rows() if row.num >= policy.min_class]
    rows = [*judged, bout.whole()] if bout.new_classes and len(bout.targets) >= policy.min_class else judged
    falls = paired.holm([row.p_worse for row in rows], policy.alpha)
    worse = [row for row, fallen in zip(rows, falls, strict=True) if fallen and row.drop > policy.max_class_drop]
    numbers = {"num_judged": len(judged), "worse": [row.name for row in worse]}
    numbers |= {"classes": [asdict(row) for row in bout.class_rows()]}
    if worse:
        named = ", ".join(f"{row.name} (recall {-row.drop * 100:+.0f} points on {row.num} images)" for row in worse)
        return _check("classes", False, f"Significantly worse: {named}.", "reject", numbers)
    if not judged:
        sentence = f"No class has the {policy.min_class} test images it takes to judge it on its own."
        return _check("classes", None, sentence, "reject", numbers)
    return _check("classes", True, f"None of {len(judged)} classes is significantly worse.", "reject", numbers)


def _nll(bout: Bout, policy: GatePolicy) -> Check:
    """G3: the NLL after each one's temperature has not risen noticeably and significantly (paired, one-sided)."""
    if not len(bout.targets):
        return _check("nll", None, "There is no test image of a class that both know.", "hold", {})
    now, before = bout.nlls()
    rise, se = float((now - before).mean()), float((now - before).std() / np.sqrt(len(now)))
    is_significant = rise > special.ndtri(1 - policy.alpha / NUM_GUARDS) * se
    passed = rise <= policy.max_nll_rise or not is_significant
    numbers = {"challenger": float(now.mean()), "champion": float(before.mean()), "rise": rise, "se": se}
    sentence = f"The NLL of calibrated scores is {now.mean():.3f} against {before.mean():.3f}"
    return _check("nll", passed, f"{sentence}{'.' if passed else '; its scores are poorer.'}", "reject", numbers)


def _latency(bout: Bout, policy: GatePolicy) -> Check:
    """G4: the seconds per image have not risen by more than the policy's share."""
    now, before = bout.challenger.seconds_per_image, bout.champion.seconds_per_image
    if not now or not before:
        return _check("latency", None, "The time per image was not compared.", "hold", {})
    slowdown = now / before - 1
    sentence = f"An image takes {now * 1000:.2f} ms against {before * 1000:.2f} ms ({slowdown:+.0%})."
    numbers = {"challenger_s": now, "champion_s": before, "slowdown": slowdown}
    return _check("latency", slowdown <= policy.max_slowdown, sentence, "hold", numbers)


def _reason(bout: Bout, policy: GatePolicy, causes: frozenset[str]) -> Check:
    """G5: it is better by McNemar's exact one-sided test, or something that the policy accepts asks for it."""
    learned = {"new_class"} if bout.new_classes and bout.new_recall != 0.0 else set()
    accepted = sorted((causes | learned) & policy.causes)
    p, counts = bout.p_better, f"{bout.num_gained} images gained, {bout.num_lost} lost, p = {bout.p_better:.2g}"
    if p < policy.alpha:
        sentence = f"It is better: {counts}."
    elif accepted:
        sentence = f"It is no worse, and asked for by {', '.join(accepted)} ({counts})."
    else:
        sentence = f"It is no worse, but not provably better ({counts}), and nothing asks for it."
    numbers = {"lost": bout.num_lost, "gained": bout.num_gained, "p_better": p, "accepted": accepted}
    numbers |= {"p_differs": paired.p_differs(bout.num_lost, bout.num_gained)}
    return _check("reason", p < policy.alpha or bool(accepted), sentence, "hold", numbers)


def _majority(challenger: Measured, targets: NDArray[np.int64], policy: GatePolicy) -> Check:
    """Without a champion: accuracy is above the share of the largest class, with confidence (Clopper & Pearson)."""
    num, right = len(targets), int((bouts.answers(challenger.logits) == targets).sum())
    lower = 1 - abstention.upper_bound(num - right, num, policy.alpha)
    share = float(np.bincount(targets).max()) / num if num else 1.0
    accuracy = right / max(1, num)
    numbers = {"num": num, "accuracy": accuracy, "lower": lower, "majority": share}
    sentence = (
        f"Accuracy {accuracy:.3f} on {num} images, {lower:.3f} at least ({1 - policy.alpha:.0%} sure); "
        f"always naming the largest class gives {share:.3f}"
    )
    if lower > share:
        return _check("majority", True, f"{sentence}.", "hold", numbers)
    if accuracy > share or not num:
        return _check("majority", False, f"{sentence}; too few test images to tell.", "underpowered", numbers)
    return _check("majority", False, f"{sentence}; it has learned nothing.", "hold", numbers)


def _warnings(bout: Bout, policy: GatePolicy) -> Iterator[str]:
    for row in bout.class_rows():
        if row.drop > policy.warn_class_drop:
            yield f"{row.name} lost {row.drop * 100:.0f} points of recall on {row.num} images."
    if bout.new_recall == 0.0:
        yield f"No test image of the new classes ({', '.join(bout.new_classes)}) is recognised."
    if bout.num_taken:
        yield f"{bout.num_taken} images of known classes are now taken for a new one."


def _scarcest(bout: Bout) -> str:
    rows = bout.class_rows()
    rarest = min(rows, key=lambda row: row.num, default=None)
    return f" ({rarest.name} has {rarest.num})" if rarest else ""


def _check(name: str, passed: bool | None, sentence: str, otherwise: Outcome, numbers: Mapping[str, Any]) -> Check:
    asks_for = otherwise if passed is False else "promote"
    return Check(name=name, passed=passed, sentence=sentence, asks_for=asks_for, numbers=numbers)


def _decide(checks: Sequence[Check], warnings: tuple[str, ...], facts: Mapping[str, Any]) -> Verdict:
    gravest = min(checks, key=lambda check: GRAVITY.index(check.asks_for))
    # What speaks for a promotion is said last: the reason, or the majority that was beaten.
    spoken = checks[-1] if gravest.asks_for == "promote" else gravest
    return Verdict(
        verdict=gravest.asks_for, reason=spoken.sentence, checks=tuple(checks), warnings=warnings, numbers=facts
    )


def _setting(name: str, value: Any) -> Any:
    if name == "margins":
        return tuple((int(num), float(margin)) for num, margin in value)
    return frozenset(value) if name == "causes" else value
