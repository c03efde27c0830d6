"""Takes the messages' dataclasses. Gives the page that names every task, its fields, its answer and its limits.

Knows nothing of Celery: the classes read and write plain dictionaries.
"""

import json
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from docs.generate import markdown, remarks, schemas
from worker import learning_messages, messages

JOB = "6f1c1f0e-3a0e-4d7e-9a36-0d5d0f4f2c11"
#: field of a class -> its name in JSON, where that is another
WIRE = {("Item", "inline"): "bytes", ("LabelledImage", "inline"): "bytes", ("Labels", "images"): "labels"}

#: type of a field -> what JSON has for it
JSON_TYPES: dict[Any, str] = {
    str: "text",
    bytes: "text, base64",
    int: "whole number",
    float: "number",
    bool: "true or false",
    dict: "object",
    NoneType: "null",
    Any: "value",
}

HEAD = f"""\
# Messages

A producer without imagemill's code sends a Celery task by its name to a queue and reads the answer from Celery's result
backend. Arguments are keyword arguments, everything is JSON, and the key prefix of Redis is `{messages.KEY_PREFIX}`.
[Hand over images](../how-to/hand-over-images.md#any-celery-producer) shows it in Python.

Every answer is an object with one name: `{{"ok": ...}}`, or `{{"refused": {{"kind", "message"}}}}`, which has
`retry_after_s` where too much waits. A name carries a version: `.v1` keeps its meaning as long as it exists, and fields
are added only such that a message without them means what it meant. A field that does not exist is refused.

"""

LIMITS = (
    ("items in one message; a larger job travels in parts", messages.MAX_PART_ITEMS),
    ("bytes of items in one message", messages.MAX_PART_BYTES),
    ("items in one job", messages.MAX_JOB_ITEMS),
    ("characters in a reference or a key of an item", messages.MAX_TEXT),
    ("labels returned per item (`top_k`)", messages.MAX_TOP_K),
    ("labels in one message", learning_messages.MAX_PART_LABELS),
    ("characters in a label, in `who` and in `source`", learning_messages.MAX_NAME),
    ("characters in a group and in a label's key", learning_messages.MAX_KEY),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task that others may send."""

    name: str
    about: str
    #: the class that its arguments are read as; None: `plain`
    asked: type | None = None
    #: argument -> meaning, where it has no class
    plain: tuple[tuple[str, str], ...] = ()
    example: dict[str, Any]


TASKS = (
    Task(
        name=messages.SUBMIT,
        about="Hand over a job, or one part of it. It is accepted when the answer says so; send the same message again "
        "with the same ids until then.",
        asked=messages.Submission,
        example=messages.Submission(
            job_id=JOB,
            items=(messages.Item(reference="file:///images/1.jpg", key="a-17"),),
            idempotency_key="nightly-23",
            num_items=1,
        ).as_json(),
    ),
    Task(
        name=messages.STATUS,
        about="Ask how far a job is.",
        plain=(("job_id", "the job"),),
        example={"job_id": JOB},
    ),
    Task(
        name=messages.RESULTS,
        about="Read outcomes, in the order of the items; ask again after the last position until a page is empty.",
        plain=(
            ("job_id", "the job"),
            ("after", "position behind which to begin; left out: -1, the beginning"),
            ("limit", f"how many at most; left out: {messages.MAX_PAGE_ITEMS}, which is the most"),
        ),
        example={"job_id": JOB, "after": -1, "limit": 100},
    ),
    Task(
        name=messages.CANCEL,
        about="Drop what is not done. Finished outcomes are kept.",
        plain=(("job_id", "the job"),),
        example={"job_id": JOB},
    ),
    Task(
        name=messages.LABELS,
        about="Say what images show.",
        asked=learning_messages.Labels,
        example=learning_messages.Labels(
            model="shoes",
            images=(learning_messages.LabelledImage(reference="file:///images/1.jpg", label="boot", who="ann"),),
        ).as_json(),
    ),
    Task(
        name=messages.RETRAIN,
        about="Ask for a run.",
        asked=learning_messages.Retrain,
        example=learning_messages.Retrain(model="shoes", asked_by="ann", reason="new season").as_json(),
    ),
    Task(
        name=messages.RUN_STATUS,
        about="Ask how far a run is.",
        plain=(("run", "the run's number"),),
        example={"run": 7},
    ),
)
#: What the tasks' fields and answers hold.
VALUES = (
    messages.Item,
    messages.Receipt,
    messages.JobStatus,
    messages.Result,
    messages.ItemError,
    learning_messages.LabelledImage,
    learning_messages.LabelsReceipt,
    learning_messages.RefusedLabel,
    learning_messages.RunStatus,
    messages.Refusal,
)


def page() -> str:
    """Give the page."""
    rows = ((f"[`{task.name}`](#{markdown.anchor(task.name)})", task.about, _answer(task)) for task in TASKS)
    parts = [
        HEAD,
        f"All of these go to the queue `{messages.KEY_PREFIX}{messages.INTAKE_QUEUE}`.\n\n",
        markdown.table(("task", "about", "`ok` holds"), rows),
        *map(_task, TASKS),
        "## Values\n\n",
        *(_value(kind) for kind in VALUES),
        "## States\n\n",
        _states("job", messages.STATES, messages.FINAL_STATES),
        _states("run", learning_messages.RUN_STATES, learning_messages.FINAL_RUN_STATES),
        "## Limits\n\n",
        markdown.table(("what", "at most"), ((what, f"{most:,}") for what, most in LIMITS)),
    ]
    return "".join(parts).rstrip() + "\n"


def _task(task: Task) -> str:
    if task.asked:
        table = _fields(task.asked)
    else:
        table = markdown.table(("argument", "meaning"), ((markdown.code(name), text) for name, text in task.plain))
    example = markdown.fenced(json.dumps(task.example, indent=2), "json")
    return f"## {task.name}\n\n{task.about}\n\n{table}Keyword arguments, for example:\n\n{example}"


def _answer(task: Task) -> str:
    """Say what `ok` holds."""
    return _spelled(schemas.ANSWERS[task.name.removeprefix("imagemill.").removesuffix(".v1")])


def _value(kind: type) -> str:
    return f"### {kind.__name__}\n\n{remarks.about(kind)}\n\n{_fields(kind)}"


def _states(whose: str, states: tuple[str, ...], final: tuple[str, ...]) -> str:
    return f"Of a {whose}: {', '.join(map(markdown.code, states))}; the last {len(final)} are final.\n\n"


def _fields(kind: type) -> str:
    said = remarks.fields(kind)
    rows = (
        (
            markdown.code(WIRE.get((kind.__name__, item.name), item.name)),
            _spelled(item.type),
            _default(item),
            _meaning(said.get(item.name, "")),
        )
        for item in fields(kind)
    )
    return markdown.table(("field", "type", "default", "meaning"), rows)


def _spelled(kind: Any) -> str:
    """Say what JSON holds for a field of that type."""
    origin, inner = get_origin(kind), [one for one in get_args(kind) if one is not Ellipsis]
    if origin is Literal:
        return " or ".join(markdown.code(str(one)) for one in inner)
    if origin in (list, tuple):
        return f"list of {_spelled(inner[0])}"
    if origin is UnionType:
        return " or ".join(map(_spelled, inner))
    name = getattr(kind, "__name__", str(kind))
    return JSON_TYPES.get(kind if origin is None else origin, f"[{name}](#{name.lower()})")


def _meaning(said: str) -> str:
    """JSON says null for None."""
    strategies = " or ".join(map(markdown.code, learning_messages.STRATEGIES))
    return said.replace("None", "null").replace("One of `STRATEGIES`", strategies)


def _default(item: "Field[Any]") -> str:
    if item.default is MISSING:
        return "" if item.default_factory is not MISSING else "required"
    return "" if item.default in (None, "", ()) else markdown.code(json.dumps(item.default))
