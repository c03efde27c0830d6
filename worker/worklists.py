"""Takes images that were suggested for labelling. Gives the file that a person fills in, or that Label Studio imports.

Knows nothing of why an image was suggested. What comes back is read by `label_files` and `label_studio`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pipeline import stores
from worker import label_studio, manifests
from worker.label_studio import Project
from worker.manifests import ManifestInvalid

#: where the label comes from, for the record, once it is filled in
SOURCE = "suggested"
FORMATS = ("jsonl", "label-studio")
#: names that Label Studio's template for classifying images gives its tags and its field
CHOICES, IMAGE = "choice", "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An image to label, with what the serving version says of it."""

    reference: str
    predicted: str | None = None
    probability: float | None = None


def form_of(file: Path, asked: str | None) -> str:
    """Choose a format: as asked, else by the file's ending. Raises `ManifestInvalid` if the file is there already."""
    if file.exists():
        raise ManifestInvalid(f"{file} is there already, and may hold labels by now; give another name.")
    form = asked or {".jsonl": "jsonl", ".json": "label-studio"}.get(file.suffix.lower())
    if form is None:
        raise ManifestInvalid(f"{file.name!r} ends in neither .jsonl nor .json; say its --format.")
    return form


def write(entries: Iterable[Entry], file: Path, form: str, *, version: str, project: Project) -> None:
    """Write the file under a temporary name, then rename it.

    Raises `ManifestInvalid`, also for files of this machine that Label Studio is not told how to open.
    """
    text = _jsonl(entries) if form == "jsonl" else _tasks(entries, version, project)
    try:
        with stores.written(file) as opened:
            opened.write(text.encode())
    except OSError as wrong:
        raise ManifestInvalid(f"{file} cannot be written: {wrong.strerror}.") from None


def _jsonl(entries: Iterable[Entry]) -> str:
    # Nothing is filled in, not even what the model predicts: a label that nobody looked at is no label.
    lines = ({"reference": one.reference, "source": SOURCE, "label": ""} for one in entries)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _tasks(entries: Iterable[Entry], version: str, project: Project) -> str:
    tasks = [_task(one, version, project) for one in entries]
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


def _task(one: Entry, version: str, project: Project) -> Mapping[str, Any]:
    task: dict[str, Any] = {"data": {project.image or IMAGE: _address(one.reference, project)}}
    if one.predicted is not None:
        said = {
            "from_name": project.choices or CHOICES,
            "to_name": IMAGE,
            "type": "choices",
            "value": {"choices": [one.predicted]},
        }
        task["predictions"] = [{"model_version": version, "score": one.probability, "result": [said]}]
    return task


def _address(reference: str, project: Project) -> str:
    """Spell a reference as Label Studio opens it; `label_studio` reads it back."""
    served = project.local_files and manifests.as_reference(project.local_files.rstrip("/"), "/") + "/"
    if served and reference.startswith(served):
        return label_studio.LOCAL_FILES + quote(unquote(reference.removeprefix(served)))
    if reference.startswith("file://"):
        raise ManifestInvalid(
            f"Label Studio cannot open {reference[:200]}: say with --local-files which folder above it is its "
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."
        )
    return reference
