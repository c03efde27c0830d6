"""Takes what the ledger has. Gives it in the words of HTTP, which are the OpenAI Batch API's where that has one.

Knows nothing of requests. Times are epoch seconds.
"""

import re
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from db.gates import Gate as LedgerGate
from db.jobs import JobView
from db.models import JobState, Priority, RunState
from db.outcomes import Recorded
from db.registry import Promotion as LedgerPromotion
from db.registry import Version as LedgerVersion
from db.runs import Run as LedgerRun
from db.runs import StepRow
from worker import learning_messages, messages

#: What is here called so, as everybody does over HTTP.
Status: TypeAlias = JobState
RunStatus: TypeAlias = RunState
One = TypeVar("One")


class Shape(BaseModel):
    """What is answered: a value."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Page(Shape, Generic[One]):
    """A stretch of a list; `after` the last one's id begins the next."""

    object: Literal["list"] = "list"
    data: list[One]
    has_more: bool


class Counts(Shape):
    """How far a job is, in images."""

    total: int
    #: those with a label
    completed: int
    #: those with an error
    failed: int


class Job(Shape):
    """A job as the ledger has it."""

    id: str
    object: Literal["job"] = "job"
    status: Status
    model: str
    version: str | None = Field(description="`model:3`, or null while the job follows `latest`")
    priority: Priority
    top_k: int
    caller: str | None = Field(description="The name of the key it was submitted with")
    request_counts: Counts
    created_at: float
    in_progress_at: float | None
    completed_at: float | None
    expires_at: float | None
    results_url: str
    errors_url: str

    @classmethod
    def of(cls, job: JobView) -> "Job":
        """Give a job of the ledger."""
        place = f"/v1/jobs/{job.id}"
        counts = Counts(total=job.num_items, completed=job.num_succeeded, failed=job.num_failed)
        return cls(
            id=str(job.id),
            status=job.state,
            model=job.model,
            version=job.version,
            priority=job.priority,
            top_k=job.top_k,
            caller=job.caller,
            request_counts=counts,
            created_at=job.created_at_s,
            in_progress_at=job.started_at_s,
            completed_at=job.finished_at_s,
            expires_at=job.deadline_s,
            results_url=f"{place}/results",
            errors_url=f"{place}/errors",
        )


class Prediction(Shape):
    """A label with its score."""

    label: str
    score: float


class ItemError(Shape):
    """Why an image has no label."""

    stage: str
    kind: str
    message: str


class Outcome(Shape):
    """What became of one image: a line of results."""

    position: int
    custom_id: str | None
    reference: str
    label: str | None
    score: float | None
    top_k: list[Prediction]
    version: str | None
    error: ItemError | None

    @classmethod
    def of(cls, row: Recorded) -> "Outcome":
        """Give an outcome of the ledger."""
        return cls(
            position=row.position,
            custom_id=row.key,
            reference=row.reference,
            label=row.label,
            score=row.score,
            top_k=[Prediction(label=label, score=score) for label, score in row.top_k],
            version=row.version,
            error=None if row.error is None else ItemError.model_validate(row.error),
        )


class Refused(Shape):
    """A label that was not recorded, and why."""

    position: int
    reference: str
    label: str
    kind: str
    message: str


class Receipt(Shape):
    """What became of labels: all but the refused ones are in the ledger."""

    object: Literal["labels"] = "labels"
    model: str
    num_added: int
    num_corrected: int
    num_unchanged: int
    num_near_duplicates: int
    refused: list[Refused]
    note: str = ""

    @classmethod
    def of(cls, receipt: learning_messages.LabelsReceipt, note: str = "") -> "Receipt":
        """Give a receipt of intake's."""
        return cls.model_validate(receipt).model_copy(update={"note": note})


class Step(Shape):
    """One step of a run."""

    name: str
    started_at: float
    completed_at: float | None

    @classmethod
    def of(cls, step: StepRow) -> "Step":
        """Give a step of the ledger."""
        return cls(name=step.name, started_at=step.started_at_s, completed_at=step.finished_at_s)


class Gate(Shape):
    """What the gate said of a challenger."""

    verdict: str
    reason: str
    challenger: str
    champion: str | None

    @classmethod
    def of(cls, gate: LedgerGate) -> "Gate":
        """Give a verdict of the ledger."""
        return cls.model_validate(gate)


class Run(Shape):
    """A run as the ledger has it."""

    id: int
    object: Literal["run"] = "run"
    status: RunStatus
    model: str
    verdict: str | None
    step: str | None
    version: str | None = Field(description="What it made, once there is one")
    base: str | None
    reason: str
    asked_by: str
    error: str | None
    created_at: float
    in_progress_at: float | None
    completed_at: float | None
    steps: list[Step] = []
    gate: Gate | None = None

    @classmethod
    def of(cls, run: LedgerRun, steps: list[Step] | None = None, gate: LedgerGate | None = None) -> "Run":
        """Give a run of the ledger."""
        return cls(
            id=run.id,
            status=run.state,
            model=run.model,
            verdict=run.verdict,
            step=run.step,
            version=run.version,
            base=run.base,
            reason=run.reason,
            asked_by=run.asked_by,
            error=run.error_message,
            created_at=run.created_at_s,
            in_progress_at=run.started_at_s,
            completed_at=run.finished_at_s,
            steps=steps or [],
            gate=None if gate is None else Gate.of(gate),
        )


class Version(Shape):
    """One checkpoint of a model."""

    id: str = Field(description="`model:3`")
    object: Literal["version"] = "version"
    model: str
    number: int
    serves: bool
    arch: str
    num_classes: int
    num_parameters: int
    source: str
    sha256: str
    metrics: dict[str, Any]
    created_at: float

    @classmethod
    def of(cls, version: LedgerVersion, *, serves: bool) -> "Version":
        """Give a version of the ledger; where its checkpoint lies is the operator's business."""
        named = {name: getattr(version, name) for name in ("model", "number", "arch", "num_classes", "num_parameters")}
        named |= {name: getattr(version, name) for name in ("source", "sha256", "metrics")}
        return cls(id=version.name, serves=serves, created_at=version.created_at_s, **named)


class Model(Shape):
    """A model, and what serves."""

    id: str
    object: Literal["model"] = "model"
    serving: str | None = Field(description="`model:3`, or null before the first promotion")
    epoch: int = Field(description="Moves by one at each promotion")
    versions: int


class Promotion(Shape):
    """One move of a serving pointer."""

    epoch: int
    kind: str
    version: str
    previous: str | None
    who: str
    reason: str
    is_forced: bool
    at: float

    @classmethod
    def of(cls, moved: LedgerPromotion) -> "Promotion":
        """Give a promotion of the ledger."""
        names = ("epoch", "kind", "version", "previous", "who", "reason", "is_forced")
        return cls(at=moved.at_s, **{name: getattr(moved, name) for name in names})


# ---------------------------------------------------------------- what is asked for


class Wanted(BaseModel):
    """What is asked for: an unknown field is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


#: What databases do not store.
NO_NUL = r"^[^\x00]*$"
#: Text that any database stores.
Text = Annotated[str, Field(min_length=1, max_length=messages.MAX_TEXT, pattern=NO_NUL)]
Name = Annotated[str, Field(pattern=rf"^{messages.MODEL_NAME.pattern}$")]
#: A reference as its schema says it; whoever breaks it is told in words.
REFERENCE = r"^([A-Za-z][A-Za-z0-9+.-]*://|/)[^\x00]*$"


def _is_absolute(reference: str) -> str:
    if len(reference) > messages.MAX_TEXT or not re.match(REFERENCE, reference):
        raise PydanticCustomError("reference", "give an absolute path, or a reference with a scheme such as s3://")
    return reference


Reference = Annotated[
    str,
    AfterValidator(_is_absolute),
    WithJsonSchema(
        {"type": "string", "maxLength": messages.MAX_TEXT, "pattern": REFERENCE, "examples": ["/images/1.jpg"]}
    ),
]


def _is_line(text: str) -> str:
    if not 0 < len(text) <= learning_messages.MAX_NAME or not text.isprintable() or text.isspace():
        raise PydanticCustomError("line", "give one line of 1 to 200 printable characters")
    return text


#: One line that can be read. No pattern says what Python calls printable, so that it is a format of its own.
Line = Annotated[
    str,
    AfterValidator(_is_line),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": learning_messages.MAX_NAME, "format": "line"}),
]
VersionName = Annotated[str, Field(pattern=rf"^({messages.VERSION_NAME.pattern})$")]
Base64 = Annotated[str, Field(min_length=4, pattern=r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$")]


def _whole(given: object) -> object:
    """Take 5.0 for 5, as JSON Schema does."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


TopK = Annotated[int, Field(ge=1, le=messages.MAX_TOP_K), BeforeValidator(_whole)]
Callback = Annotated[str, Field(min_length=1, max_length=messages.MAX_URL, pattern=NO_NUL)]
Window = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}[smhd]$", examples=["24h"])]


def _absent(description: str = "") -> Any:
    """Let a field be left out, but not be null."""
    return Field(default=None, description=description, json_schema_extra=_without_default)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


class Item(Wanted):
    """One image: a reference, or the bytes of a small one."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["reference"]}, {"required": ["bytes"]}],
            "not": {"required": ["custom_id", "key"]},
        }
    )

    reference: Reference = _absent("Where the workers find it")
    bytes: Base64 = _absent("A small image itself, as base64")
    custom_id: Text = _absent("Your name for it, unique in its job; comes back with its outcome")
    key: Text = _absent("The same, as manifests of the command line have it")


AnyItem = Annotated[
    Annotated[Reference, Tag("text")] | Annotated[Item, Tag("object")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "object"),
]


class Wish(Wanted):
    """How a job is to be done, whatever way its images come."""

    model: Name = "default"
    version: VersionName = _absent("`model:3` for an exact one, `latest` to follow promotions; else what serves now")
    priority: Priority = "bulk"
    top_k: TopK = 5
    callback: Callback = _absent("https:// URL that is told of the job's end, signed; its host must be an allowed one")
    completion_window: Window = _absent("How long it may take: 90s, 30m, 24h, 7d; what is left then is dropped")


class WishInText(Wish):
    """The same, where numbers come as text: in a query, or in a form."""

    model_config = ConfigDict(strict=False)


class NewJob(Wish):
    """A job with its images."""

    items: list[AnyItem] = Field(min_length=1)


class Upload(WishInText):
    """A form of image files, each kept under its own name as `custom_id`."""

    images: list[Annotated[str, Field(json_schema_extra={"format": "binary"})]] = Field(min_length=1)


class LabelledItem(Wanted):
    """What somebody says an image shows."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["reference"]}, {"required": ["bytes"]}]})

    label: Line
    reference: Reference = _absent("Where intake and the workers find it")
    bytes: Base64 = _absent("A small image itself, as base64")
    who: Annotated[str, Field(min_length=1, max_length=learning_messages.MAX_NAME, pattern=NO_NUL)] = _absent(
        "Who says so; else the name of the key"
    )
    group: Annotated[str, Field(min_length=1, max_length=learning_messages.MAX_KEY, pattern=NO_NUL)] = _absent(
        "Images of one group (a patient, a burst of shots) share a split"
    )
    key: Annotated[str, Field(min_length=1, max_length=learning_messages.MAX_KEY, pattern=NO_NUL)] = _absent(
        "Names the event: the same key again changes nothing"
    )


class NewLabels(Wanted):
    """Labels of one model."""

    model: Name = "default"
    labels: list[LabelledItem] = Field(min_length=1)


class NewRun(Wanted):
    """The wish to retrain a model."""

    model: Name = "default"
    reason: Annotated[str, Field(max_length=messages.MAX_TEXT, pattern=NO_NUL)] = ""
    force: bool = False
    strategy: Literal["head", "last_stage", "all"] = _absent(
        "How much of the network is trained; else the playbook says"
    )
    base: VersionName = _absent("The version it starts from; else the playbook says")
    seed: Annotated[int, Field(ge=0, le=learning_messages.MAX_RUN), BeforeValidator(_whole)] = 0


class Promote(Wanted):
    """Which version is to serve."""

    version: Annotated[str, Field(pattern=rf"^{messages.MODEL_NAME.pattern}:[1-9][0-9]{{0,8}}$")]
    reason: Annotated[str, Field(max_length=messages.MAX_TEXT, pattern=NO_NUL)] = ""
    force: bool = Field(False, description="Although the gate did not let it; needs a reason")


class Rollback(Wanted):
    """Why the version is to serve that served before."""

    reason: Annotated[str, Field(max_length=messages.MAX_TEXT, pattern=NO_NUL)] = ""


class LabelStudioEvent(BaseModel):
    """What Label Studio's webhook sends; anything beside `action` depends on it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    action: str
