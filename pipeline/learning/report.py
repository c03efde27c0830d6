"""Takes what is known of one run, at whatever point it ended.

Gives one self-contained HTML page: no request leaves it, no script runs in it, it prints, it follows light and dark.
Knows nothing of SQL, stores, or of the modules that measured; every value here is plain.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.learning.pages import page, template


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fact as a person reads it."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the run that began."""

    name: str
    #: None while it has not ended
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """Something the owner of the model may do now."""

    sentence: str
    #: a line for a terminal
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Who asked for the run, when, and how it ended."""

    id: int
    model: str
    #: queued, running, succeeded, failed or cancelled
    state: str
    #: promote, hold, reject, underpowered or not_recommended; None where the run did not come so far
    verdict: str | None
    #: one sentence: the gate's or the planner's reason for the verdict
    verdict_reason: str = ""
    #: whether the challenger serves because of this run; False before the swap, or where it was refused
    is_promoted: bool = False
    #: whether a person overrode the planner or the gate
    is_forced: bool = False
    #: what asked for the run: a trigger's reason, or a person's
    asked_reason: str
    asked_by: str
    #: epoch seconds
    created_at_s: float
    #: epoch seconds
    started_at_s: float | None = None
    #: epoch seconds
    finished_at_s: float | None = None
    seed: int
    #: snake_case fact, empty unless the run failed
    error_kind: str = ""
    #: one sentence for a user
    error_message: str = ""
    #: in the order they ran
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A number the plan rests on, and what it means."""

    name: str
    value: str
    meaning: str
    #: 0..1, drawn as a small bar
    level: float | None = None
    #: 0..1, marks on that bar: the thresholds it is compared with
    marks: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """How the error of a cheap head falls with labels: error(n) = a + b * n ** -c (science 2.2)."""

    #: (labels, share of errors in 0..1), measured
    points: tuple[tuple[float, float], ...]
    a: float
    b: float
    c: float
    #: share of errors in 0..1 that is wanted
    target: float
    #: labels that reach the target, with the bootstrap interval; None where the target is not reachable
    needed: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFacts:
    """What the playbook decided and why."""

    #: scarce, grey or plentiful
    amount: str
    #: dissimilar, grey or similar
    likeness: str
    #: the lecture's cell in words
    cell: str
    #: what the lecture says of that cell
    lecture: str
    #: what was decided, in words
    decision: str
    is_recommended: bool
    #: one sentence each
    reasons: tuple[str, ...] = ()
    #: one sentence each: what to do instead
    instead: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    curve: LearningCurve | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One pass over the training images."""

    #: from 1; 0 is the network as it came
    number: int
    #: None for epoch 0
    train_loss: float | None
    #: 0..1; None for epoch 0
    train_accuracy: float | None
    #: negative log-likelihood, nats
    val_nll: float
    #: 0..1
    val_accuracy: float
    #: 0..1
    val_balanced_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One strategy of the bake-off."""

    #: head, last_stage or all
    strategy: str
    #: 0..1, of the metric the recipe selects by, on validation images
    score: float | None
    #: of the score
    standard_error: float | None = None
    seconds: float | None = None
    is_chosen: bool = False
    #: empty for the head, which is solved and not trained in epochs
    epochs: tuple[Epoch, ...] = ()
    #: number of the epoch that was kept
    best: int | None = None
    #: why it was (not) taken, or how it ended; one sentence
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """How one class does on the test images."""

    name: str
    #: test images with this label
    num: int
    #: 0..1; None where there is no such image
    recall: float | None
    #: 0..1; None where nothing was predicted as this class
    precision: float | None
    f1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A version measured on the frozen test images."""

    version: str
    #: test images
    num: int
    #: 0..1
    accuracy: float
    #: 0..1
    balanced_accuracy: float
    #: 0..1
    macro_f1: float
    #: negative log-likelihood after the temperature, nats
    nll: float
    #: 0..2
    brier: float
    #: expected calibration error in 0..1; None below 1,000 images
    ece: float | None = None
    seconds_per_image: float | None = None
    #: in the order of the class numbers
    per_class: tuple[ClassScores, ...] = ()
    #: [label][prediction] counts, in the same order; empty where it was not kept
    confusion: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Predictions of about one confidence."""

    #: limits of the bin, 0..1
    low: float
    high: float
    num: int
    #: means, 0..1; of no use where num is 0
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Confidence against accuracy, before and after the temperature."""

    temperature: float
    before: tuple[Bin, ...]
    after: tuple[Bin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One rule of the gate."""

    name: str
    #: None where the rule could not be, or did not have to be, judged
    passed: bool | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Challenger minus champion, in shares of 1, with its confidence bounds."""

    #: what is compared, such as "balanced accuracy"
    metric: str
    value: float
    low: float
    #: None where only the lower bound is of interest
    high: float | None = None
    #: positive; the lower bound must lie above minus this
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFacts:
    """What the gate looked at."""

    checks: tuple[Check, ...]
    warnings: tuple[str, ...] = ()
    difference: Difference | None = None
    #: every other number it used
    numbers: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A test image that the challenger got wrong."""

    #: a small JPEG; empty where the image could not be read again
    thumbnail_jpeg: bytes
    reference: str
    label: str
    predicted: str
    #: 0..1, of the prediction
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCounts:
    """Images of one class in the snapshot."""

    name: str
    train: int
    val: int
    test: int
    is_removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """An image of the snapshot that could not be used."""

    reference: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What the challenger was made of."""

    #: snapshot digest, backbone, parent, checkpoint sha256, proof that the frozen part stayed as it was...
    rows: tuple[Row, ...]
    counts: tuple[ClassCounts, ...] = ()
    lost: tuple[Lost, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """Everything the page shows; what the run did not reach is None or empty, and its section is left out."""

    run: RunFacts
    #: what the owner may do now
    next_steps: tuple[NextStep, ...] = ()
    plan: PlanFacts | None = None
    trials: tuple[Trial, ...] = ()
    challenger: Scores | None = None
    champion: Scores | None = None
    reliability: Reliability | None = None
    gate: GateFacts | None = None
    #: the most confident mistakes first
    most_wrong: tuple[Wrong, ...] = ()
    lineage: Lineage | None = None
    #: the recipe, settled: field and value
    recipe: tuple[Row, ...] = ()
    #: what happened by the way (out of memory, fallbacks), one sentence each
    notes: tuple[str, ...] = ()


def render(report: RunReport) -> bytes:
    """Give the page as UTF-8 HTML of less than 2 MB: pictures, rows and ends of texts beyond that are left out."""
    return template.fill(report, page.of(report)).encode()
