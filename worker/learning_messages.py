"""Takes what others send to teach a model: labels, and the wish to retrain it. Gives checked values, and the answers.

Knows nothing of Celery, SQL or torch: standard library only, so that any service can import it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import forms
from .forms import MessageInvalid
from .messages import MAX_PART_BYTES, MODEL_NAME, VERSION_NAME

#: Labels in one message; each costs intake a fetch and a decode.
MAX_PART_LABELS = 1000
#: Characters in a label, in a person's name and in a door's.
MAX_NAME = 200
#: Characters in a group's name and in a key, which databases keep in an index.
MAX_KEY = 500
#: The largest run's number: what both databases hold.
MAX_RUN = 2**31 - 1

#: How much of the network a run may train; none named leaves it to the playbook.
STRATEGIES = ("head", "last_stage", "all")
#: States from which a run does not move by itself.
FINAL_RUN_STATES = ("succeeded", "failed", "cancelled")
#: All states of a run, in the order it goes through them.
RUN_STATES = ("queued", "running", *FINAL_RUN_STATES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """What somebody says an image shows: the image is a reference, or the bytes of a small one."""

    label: str
    reference: str = ""
    #: The image itself; intake stores it and gives it a reference.
    inline: bytes | None = None
    #: Who says so.
    who: str = "unknown"
    #: By which door it came.
    source: str = "message"
    #: Images of one group (a patient, a burst of shots) share a split.
    group: str | None = None
    #: Names the event: the same key again changes nothing.
    key: str | None = None

    @property
    def num_bytes(self) -> int:
        """About what it takes in a message."""
        return len(self.reference) + len(self.inline or b"") * 4 // 3 + 256

    def as_json(self) -> dict[str, str]:
        """Give the wire form."""
        wire = {"label": self.label, "who": self.who, "source": self.source}
        wire |= {"reference": self.reference} if self.inline is None else {"bytes": forms.encoded(self.inline)}
        return wire | {name: value for name, value in (("group", self.group), ("key", self.key)) if value is not None}

    @classmethod
    def parse(cls, wire: Any) -> "LabelledImage":
        """Read the wire form: `label`, `reference` or `bytes`, and perhaps `who`, `source`, `group` and `key`.

        Space around a label is taken away: ` cat` and `cat` are one class. Raises `MessageInvalid`.
        """
        fields = forms.fields_of(wire, "a labelled image", {*cls.__slots__, "bytes"} - {"inline"})
        if ("reference" in fields) == ("bytes" in fields):
            raise MessageInvalid("A labelled image needs either `reference` or `bytes`.")
        inline = forms.decoded(fields["bytes"]) if "bytes" in fields else None
        return cls(
            label=_label(fields),
            reference=forms.text(fields, "reference") if inline is None else "",
            inline=inline,
            who=forms.text_or_none(fields, "who", most=MAX_NAME) or "unknown",
            source=forms.text_or_none(fields, "source", most=MAX_NAME) or "message",
            group=forms.text_or_none(fields, "group", most=MAX_KEY),
            key=forms.text_or_none(fields, "key", most=MAX_KEY),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels for one model."""

    images: tuple[LabelledImage, ...]
    model: str = "default"

    def as_json(self) -> dict[str, Any]:
        """Give the wire form."""
        return {"model": self.model, "labels": [image.as_json() for image in self.images]}

    @classmethod
    def parse(cls, wire: Any) -> "Labels":
        """Check a message of any origin. Raises `MessageInvalid` with a sentence that names the field."""
        fields = forms.fields_of(wire, "a message of labels", {"model", "labels"})
        rows = forms.rows_of(fields, "labels", most=MAX_PART_LABELS)
        images = tuple(LabelledImage.parse(row) for row in rows)
        forms.refuse_heavy(images, "labels", most=MAX_PART_BYTES)
        return cls(images=images, model=forms.match(fields, "model", MODEL_NAME, default="default"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrain:
    """The wish to retrain a model."""

    model: str = "default"
    #: Who asks.
    asked_by: str = "unknown"
    #: Why, for the run's record.
    reason: str = ""
    #: Train although the plan says that it is not worth it.
    force: bool = False
    #: One of `STRATEGIES`; None leaves it to the playbook.
    strategy: str | None = None
    #: The version it starts from, `model:3`; None leaves it to the playbook.
    base: str | None = None
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Give the wire form, without what is None."""
        given = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value for name, value in given if value not in (None, "")}

    @classmethod
    def parse(cls, wire: Any) -> "Retrain":
        """Check a message of any origin. Raises `MessageInvalid` with a sentence that names the field."""
        fields = forms.fields_of(wire, "a wish to retrain", set(cls.__slots__))
        strategy = None
        if fields.get("strategy") is not None:
            strategy = forms.one_of(fields, "strategy", STRATEGIES, default="")
        return cls(
            model=forms.match(fields, "model", MODEL_NAME, default="default"),
            asked_by=forms.text_or_none(fields, "asked_by", most=MAX_NAME) or "unknown",
            reason=forms.text_or_none(fields, "reason") or "",
            force=forms.flag(fields, "force"),
            strategy=strategy,
            base=forms.match(fields, "base", VERSION_NAME, default=None),
            seed=forms.whole(fields, "seed", default=0, lowest=0, highest=MAX_RUN),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedLabel:
    """A label that was not recorded, and why."""

    #: Its place among what was given, from 0.
    position: int
    reference: str
    label: str
    #: What happened, as a fact a program can match on.
    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsReceipt:
    """What became of labels: all but the refused ones are in the ledger."""

    model: str
    #: Labels of images that had none, or that confirm the one they had.
    num_added: int = 0
    #: Labels that replace another one.
    num_corrected: int = 0
    #: Labels that say nothing new; nothing was written.
    num_unchanged: int = 0
    #: Of the images new to the ledger, those that look like one it has.
    num_near_duplicates: int = 0
    refused: tuple[RefusedLabel, ...] = ()

    @property
    def num_labels(self) -> int:
        """Labels that were given."""
        return self.num_added + self.num_corrected + self.num_unchanged + len(self.refused)

    def and_then(self, later: "LabelsReceipt") -> "LabelsReceipt":
        """Give the receipt of both: of what was given here, and then of what came behind it."""
        moved = tuple(replace(one, position=one.position + self.num_labels) for one in later.refused)
        return LabelsReceipt(
            model=self.model,
            num_added=self.num_added + later.num_added,
            num_corrected=self.num_corrected + later.num_corrected,
            num_unchanged=self.num_unchanged + later.num_unchanged,
            num_near_duplicates=self.num_near_duplicates + later.num_near_duplicates,
            refused=self.refused + moved,
        )

    @classmethod
    def parse(cls, wire: Mapping[str, Any]) -> "LabelsReceipt":
        """Read it from an answer."""
        return cls(**{**wire, "refused": tuple(RefusedLabel(**one) for one in wire["refused"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """A run as the ledger has it."""

    id: int
    model: str
    state: str
    #: What the gate said, or the planner: promote, hold, reject, underpowered, not_recommended.
    verdict: str | None
    #: The step it is at.
    step: str | None
    #: How far that step is.
    progress: dict[str, Any] | None
    #: `model:3`, once there is one.
    version: str | None
    #: Why it failed, in one sentence.
    error: str | None
    #: Why it was asked for.
    reason: str
    asked_by: str
    created_at_s: float
    started_at_s: float | None = None
    finished_at_s: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether the run will not move by itself any more."""
        return self.state in FINAL_RUN_STATES


def parse_run_id(given: Any) -> int:
    """Read a run's number. Raises `MessageInvalid`."""
    return forms.whole({"run": given}, "run", default=None, lowest=1, highest=MAX_RUN)


def _label(fields: Mapping[str, Any]) -> str:
    label = forms.text(fields, "label").strip()
    if not 0 < len(label) <= MAX_NAME or not label.isprintable():
        raise MessageInvalid(f"`label` must be one line of 1 to {MAX_NAME} characters.")
    return label
