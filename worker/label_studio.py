"""Takes what Label Studio sends or exports. Gives labelled images, and a reason for each annotation that is none.

Knows nothing of HTTP, files or the ledger. Payloads as Label Studio 1.x documents and sends them: webhook_reference.md
and webhooks/models.py of its repository.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from worker import forms
from worker.learning_messages import LabelledImage, RefusedLabel
from worker.manifests import as_reference
from worker.messages import MessageInvalid

#: The door these labels come by.
SOURCE = "label-studio"
#: Actions that carry annotations.
LABELLING = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED")
#: Actions that take annotations away; they name nothing but ids.
DELETING = ("ANNOTATION_DELETED", "ANNOTATIONS_DELETED")
#: How Label Studio names files that it serves itself: from a folder it was given, and uploaded through its pages.
LOCAL_FILES, UPLOADS = "/data/local-files/?d=", "/data/upload/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """How a project's tasks are read."""

    #: The field of a task's data that is the image; "" takes `image`, or the only one there is.
    image: str = ""
    #: The name of the Choices that are the label; "" takes the only ones there are.
    choices: str = ""
    #: Where the workers have the folder that is LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT there.
    local_files: str = ""
    #: Where the workers have Label Studio's folder media/upload.
    uploads: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a webhook's payload comes to."""

    rows: tuple[LabelledImage | RefusedLabel, ...] = ()
    #: Why there are none, where that is as it should be.
    note: str = ""


class _Unusable(ValueError):
    """An annotation that is no label; the sentence says why."""


def event(payload: Any, project: Project) -> Event:
    """Read a webhook's payload. Raises `MessageInvalid` for one that is not Label Studio's.

    A skipped or emptied annotation is no label. A deleted one stays a label: labels are events that are never taken
    back, and the payload does not say of which image it was; label the image anew to correct it.
    """
    if not isinstance(payload, Mapping) or not isinstance(payload.get("action"), str):
        raise MessageInvalid("This is no webhook of Label Studio: it has no `action`.")
    action = payload["action"]
    if action in DELETING:
        return Event(note="Labels of deleted annotations are kept; label the images anew to correct them.")
    if action not in LABELLING:
        return Event(note=f"{action[:80]} carries no labels.")
    annotations, tasks = _listed(payload, "annotation"), _listed(payload, "task")
    data = {_identity(task): task.get("data") for task in tasks}
    rows = [_row(annotation, data.get(_flat(annotation, "task")), project) for annotation in annotations]
    labelled = tuple(row for row in rows if row is not None)
    return Event(rows=labelled, note="" if labelled else "Skipped and empty annotations are no labels.")


def task_rows(task: Any, project: Project) -> Iterator[LabelledImage | RefusedLabel]:
    """Read one task of an export: its annotations in their order, what counts as the truth last.

    A task without annotations gives nothing. Raises `MessageInvalid` for what is no task.
    """
    if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
        raise MessageInvalid("A task must be an object with `data`; export as JSON, not as JSON-MIN.")
    annotations = task.get("annotations", [])
    if not isinstance(annotations, Sequence) or not all(isinstance(one, Mapping) for one in annotations):
        raise MessageInvalid("A task's `annotations` must be a list of objects; export as JSON, not as JSON-MIN.")
    for annotation in sorted(annotations, key=_precedence):
        row = _row(annotation, task["data"], project)
        if row is not None:
            yield row


def _precedence(annotation: Mapping[str, Any]) -> tuple[bool, str]:
    return bool(annotation.get("ground_truth")), _flat(annotation, "updated_at")


def _listed(payload: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """Give what a payload has one or many of, always under the singular name."""
    given = payload.get(name)
    many = [given] if isinstance(given, Mapping) else given
    if not isinstance(many, list) or not all(isinstance(one, Mapping) for one in many):
        raise MessageInvalid(f"The payload has no `{name}`; turn on Send payload in Label Studio's webhook.")
    return many


def _row(annotation: Mapping[str, Any], data: Any, project: Project) -> LabelledImage | RefusedLabel | None:
    """Give an annotation's label; None where nobody labelled anything."""
    if annotation.get("was_cancelled") or not annotation.get("result"):
        return None
    reference = label = ""
    try:
        label = _choice(annotation["result"], project.choices)
        reference = _reference(_image(data, project.image), project)
        wire = {"label": label, "reference": reference, "who": _who(annotation), "source": SOURCE}
        return LabelledImage.parse(wire | {"key": _key(annotation)})
    except (_Unusable, MessageInvalid) as wrong:
        message = f"Annotation {_identity(annotation)}: {wrong}"
        said = [forms.printable(text, most=forms.MAX_TEXT) for text in (reference, label, message)]
        return RefusedLabel(position=0, reference=said[0], label=said[1], kind="unusable", message=said[2])


def _choice(result: Any, name: str) -> str:
    results = [one for one in result if isinstance(one, Mapping)] if isinstance(result, list) else []
    chosen = {
        _flat(one, "from_name"): one["value"]["choices"]
        for one in results
        if isinstance(one.get("value"), Mapping) and isinstance(one["value"].get("choices"), list)
    }
    if name:
        chosen = {key: choices for key, choices in chosen.items() if key == name}
    if len(chosen) != 1:
        named = ", ".join(sorted(chosen))
        raise _Unusable(f"it answers several Choices ({named}); say which is the label." if chosen else "no choice.")
    [choices] = chosen.values()
    if len(choices) != 1 or not isinstance(choices[0], str):
        raise _Unusable(f"it has {len(choices)} choices; an image has one label.")
    return choices[0]


def _image(data: Any, name: str) -> str:
    fields = {key: value for key, value in data.items() if isinstance(value, str)} if isinstance(data, Mapping) else {}
    if not fields:
        raise _Unusable("its task has no data.")
    if name or "image" in fields:
        fields = {key: value for key, value in fields.items() if key == (name or "image")}
    if len(fields) != 1:
        known = ", ".join(sorted(data))
        raise _Unusable(f"which field of its task ({known}) is the image? Say so.")
    return forms.text(fields, next(iter(fields)))


def _reference(image: str, project: Project) -> str:
    for mark, folder, what in (
        (LOCAL_FILES, project.local_files, "local files"),
        (UPLOADS, project.uploads, "uploads"),
    ):
        _, found, rest = image.partition(mark)
        if found and not folder:
            raise _Unusable(f"Label Studio serves {image[:200]} itself; say where the workers have its {what}.")
        if found and "://" in folder:
            return f"{folder.rstrip('/')}/{unquote(rest)}"
        if found:
            return as_reference(unquote(rest).lstrip("/"), folder)
    return as_reference(image, "/")


def _who(annotation: Mapping[str, Any]) -> str:
    by = annotation.get("completed_by")
    if isinstance(by, Mapping):
        by = by.get("email") or by.get("id")
    return by if isinstance(by, str) and by else f"{SOURCE} user {by if isinstance(by, int) else 'unknown'}"


def _key(annotation: Mapping[str, Any]) -> str | None:
    """Name the event: an annotation's id and when it last changed, so that it counts once by whatever way it comes."""
    when = _flat(annotation, "updated_at") or _flat(annotation, "created_at")
    return f"{SOURCE}:{_identity(annotation)}:{when}" if _identity(annotation) and when else None


def _identity(one: Mapping[str, Any]) -> str:
    return _flat(one, "id")


def _flat(one: Mapping[str, Any], name: str) -> str:
    """Give a number or a text as text; anything else, however deep, is as good as none."""
    value = one.get(name)
    return str(value) if isinstance(value, int | str) else ""
