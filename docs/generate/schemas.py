"""Takes what the messages are made of. Gives each task's message and answer as JSON Schema (2020-12), for any language.

Knows nothing of Celery. The answers' schemas are read off their dataclasses, and what each field means off the comment
above it; what may be sent is written here, with the limits that `messages` checks.
`python -m docs.generate.schemas FOLDER` writes them all.
"""

import json
import re
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from docs.generate import remarks
from worker import forms, learning_messages, messages

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

UUID = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", dict: "object"}
#: What a schema cannot say, in the words of the refusals.
RULES = {
    "submit": (
        "`num_items` is at least `first_position` and the number of `items` together.",
        "No two items of a job have the same `key`.",
        f"Several items take {messages.MAX_PART_BYTES} bytes together at most; a larger job goes in parts.",
        "The host of `callback` is one that the operator allows.",
    ),
    "labels": (
        "A `label` is one line of printable characters; space around it is taken away.",
        f"Several labels take {messages.MAX_PART_BYTES} bytes together at most.",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One schema and the file it lies in."""

    name: str
    schema: Schema


def documents() -> Iterator[Document]:
    """Give every schema: what each task takes, what it answers, and what a callback tells."""
    for task, message in _messages().items():
        yield _document(f"{task}.v1", f"What the task imagemill.{task}.v1 takes.", message, RULES.get(task, ()))
        yield _document(f"{task}.v1.answer", f"What the task imagemill.{task}.v1 answers.", _answer(ANSWERS[task]))
    yield _document("callback.v1", "What is posted to a job's callback.", _callback())


def write(folder: Path) -> None:
    """Write every schema into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for document in documents():
        text = json.dumps(document.schema, indent=2, ensure_ascii=False)
        (folder / f"{document.name}.json").write_text(f"{text}\n", encoding="utf-8")


# ---------------------------------------------------------------- what is sent


def _messages() -> dict[str, Schema]:
    job_id = {"type": "string", "pattern": UUID}
    return {
        "submit": _object(messages.Submission, _submission(), required=("job_id", "items")),
        "status": _closed({"job_id": job_id}, required=("job_id",)),
        "results": _closed(
            {
                "job_id": job_id,
                "after": _whole(-1, messages.MAX_JOB_ITEMS, default=-1),
                "limit": _whole(1, messages.MAX_PAGE_ITEMS, default=messages.MAX_PAGE_ITEMS),
            },
            required=("job_id",),
        ),
        "cancel": _closed({"job_id": job_id}, required=("job_id",)),
        "labels": _object(learning_messages.Labels, _labels(), required=("labels",)),
        "retrain": _object(learning_messages.Retrain, _retrain(), required=()),
        "run_status": _closed({"run": _whole(1, learning_messages.MAX_RUN)}, required=("run",)),
    }


def _submission() -> dict[str, Schema]:
    most = messages.MAX_JOB_ITEMS
    return {
        "job_id": {"type": "string", "pattern": UUID},
        "items": {"type": "array", "minItems": 1, "maxItems": messages.MAX_PART_ITEMS, "items": _item()},
        "model": _or_null(_named(messages.MODEL_NAME)) | {"default": "default"},
        "version": _or_null(_named(messages.VERSION_NAME)),
        "priority": {"enum": list(messages.PRIORITIES), "default": messages.BULK},
        "idempotency_key": _or_null(_text()),
        "top_k": _whole(1, messages.MAX_TOP_K, default=5),
        "deadline_s": {"type": ["number", "null"], "exclusiveMinimum": 0, "exclusiveMaximum": forms.MAX_SECONDS},
        "num_items": _whole(1, most),
        "first_position": _whole(0, most, default=0),
        "caller": _or_null(_text()),
        "callback": _or_null(_text(messages.MAX_URL)),
        "traceparent": _or_null(_named(messages.TRACEPARENT)),
    }


def _item() -> Schema:
    known = {"reference": _text(), "key": _or_null(_text()), "bytes": _image()}
    return {"anyOf": [_text(), _either(_object(messages.Item, known, required=()))]}


def _labels() -> dict[str, Schema]:
    name, key = _text(learning_messages.MAX_NAME), _text(learning_messages.MAX_KEY)
    known = {
        "label": _text() | {"pattern": r"\S"},
        "reference": _text(),
        "bytes": _image(),
        "who": _or_null(name),
        "source": _or_null(name),
        "group": _or_null(key),
        "key": _or_null(key),
    }
    image = _either(_object(learning_messages.LabelledImage, known, required=("label",)))
    images = {"type": "array", "minItems": 1, "maxItems": learning_messages.MAX_PART_LABELS, "items": image}
    return {"labels": images, "model": _or_null(_named(messages.MODEL_NAME)) | {"default": "default"}}


def _retrain() -> dict[str, Schema]:
    return {
        "model": _or_null(_named(messages.MODEL_NAME)) | {"default": "default"},
        "asked_by": _or_null(_text(learning_messages.MAX_NAME)),
        "reason": _or_null(_text()),
        "force": {"type": ["boolean", "null"], "default": False},
        "strategy": {"enum": [*learning_messages.STRATEGIES, None]},
        "base": _or_null(_named(messages.VERSION_NAME)),
        "seed": _whole(0, learning_messages.MAX_RUN, default=0),
    }


def _text(most: int = forms.MAX_TEXT) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": most, "pattern": r"^[^\u0000]*$"}


def _named(pattern: re.Pattern[str]) -> Schema:
    return {"type": "string", "pattern": f"^(?:{pattern.pattern})$"}


def _image() -> Schema:
    return {"type": "string", "contentEncoding": "base64", "pattern": BASE64}


def _whole(lowest: int, highest: int, **more: int) -> Schema:
    return {"type": "integer", "minimum": lowest, "maximum": highest, **more}


def _or_null(schema: Schema) -> Schema:
    return schema | {"type": [schema["type"], "null"]}


def _either(schema: Schema) -> Schema:
    """Ask for the image as a reference or as its bytes."""
    return schema | {"oneOf": [{"required": ["reference"]}, {"required": ["bytes"]}]}


def _object(of: type, known: Mapping[str, Schema], *, required: tuple[str, ...]) -> Schema:
    about = _remarks(of)
    # The image itself has another name on the wire.
    about = about | {"bytes": about["inline"]} if "inline" in about else about
    described = {name: {"description": about[name]} | one if name in about else one for name, one in known.items()}
    return _closed(described, required=required)


def _closed(known: Mapping[str, Schema], *, required: tuple[str, ...]) -> Schema:
    schema = {"type": "object", "properties": dict(known), "additionalProperties": False}
    return schema | ({"required": list(required)} if required else {})


# ---------------------------------------------------------------- what is answered

#: Task -> what `ok` holds.
ANSWERS: Mapping[str, Any] = {
    "submit": messages.Receipt,
    "status": messages.JobStatus,
    "results": list[messages.Result],
    "cancel": messages.JobStatus,
    "labels": learning_messages.LabelsReceipt,
    "retrain": learning_messages.RunStatus,
    "run_status": learning_messages.RunStatus,
}
#: What types alone do not say.
_SAID: Mapping[tuple[type, str], Schema] = {
    (messages.Receipt, "state"): {"enum": list(messages.STATES)},
    (messages.JobStatus, "state"): {"enum": list(messages.STATES)},
    (learning_messages.RunStatus, "state"): {"enum": list(learning_messages.RUN_STATES)},
    (messages.Result, "top_k"): {
        "type": "array",
        "items": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}], "items": False},
    },
}


def _answer(kind: Any) -> Schema:
    refusal = _of(messages.Refusal)
    # An answer has it only where it says something.
    refusal["required"].remove("retry_after_s")
    return {
        "oneOf": [
            {"type": "object", "properties": {"ok": _of(kind)}, "required": ["ok"]},
            {"type": "object", "properties": {"refused": refusal}, "required": ["refused"]},
        ]
    }


def _callback() -> Schema:
    status = _of(messages.JobStatus)
    del status["properties"]["note"]
    status["required"].remove("note")
    types_ = {"enum": [f"job.{state}" for state in messages.FINAL_STATES]}
    told = {"type": types_, "timestamp": {"type": "string", "format": "date-time"}, "data": status}
    return {"type": "object", "properties": told, "required": list(told)}


def _of(kind: Any) -> Schema:
    """Read a schema off a type; readers pass over fields that they do not know."""
    if isinstance(kind, type) and is_dataclass(kind):
        return _of_dataclass(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (list, tuple):
        return {"type": "array", "items": _of(arguments[0])}
    if origin in (Union, types.UnionType):
        return _of_union([_of(one) for one in arguments])
    return {"type": PLAIN[origin or kind]}


def _of_dataclass(kind: type) -> Schema:
    hints, about = get_type_hints(kind), _remarks(kind)
    names = [field.name for field in fields(kind)]
    known = {name: _SAID.get((kind, name)) or _of(hints[name]) for name in names}
    described = {name: ({"description": about[name]} if name in about else {}) | one for name, one in known.items()}
    return {"type": "object", "properties": described, "required": names}


def _of_union(several: list[Schema]) -> Schema:
    if all(one.keys() == {"type"} for one in several):
        return {"type": [one["type"] for one in several]}
    return {"anyOf": several}


def _remarks(of: type) -> dict[str, str]:
    """Read what is written above the fields of a dataclass; JSON says null for None."""
    return {name: text.replace("None", "null") for name, text in remarks.fields(of).items()}


def _document(name: str, title: str, schema: Schema, rules: tuple[str, ...] = ()) -> Document:
    head = {"$schema": DIALECT, "$id": f"urn:imagemill:{name}", "title": title}
    comment = {"$comment": " ".join(("Beside the schema:", *rules))} if rules else {}
    return Document(name=name, schema=head | comment | schema)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
