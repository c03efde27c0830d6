"""Takes a folder per class, a CSV, a JSONL or a Label Studio export. Gives labelled images, one by one.

Knows nothing of what is in the images or of where labels go: one pass in constant memory, and line numbers in errors.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worker import json_list, label_studio, manifests
from worker.learning_messages import LabelledImage, RefusedLabel
from worker.manifests import ManifestInvalid, as_reference
from worker.messages import MessageInvalid

#: A pass over the labels; called again for a second pass.
LabelSource = Callable[[], Iterator[LabelledImage | RefusedLabel]]

#: Columns and fields of a label file.
NEEDS, MAY_HAVE = ("reference", "label"), ("who", "group", "key")
#: What splits are called: folders of these names hold classes, and are none.
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is true of every label of a file that does not say otherwise."""

    who: str
    #: Fields of tasks, where it is an export of Label Studio.
    project: label_studio.Project = label_studio.Project()


def open_source(path: Path, origin: Origin, *, form: str | None = None) -> LabelSource:
    """Read a source lazily, as `form` (a name in `FORMS`) or by what it is: a folder, or a file by its ending.

    Relative references start at the file's folder. Raises `ManifestInvalid`.
    """
    name = form or _form_of(path)
    if (name == "folder") != os.path.isdir(path) or not os.path.exists(path):  # noqa: PTH110, PTH112 - Path raises
        raise ManifestInvalid(f"There is no {'folder' if name == 'folder' else 'file'} {str(path)!r}.")
    return lambda: FORMS[name](path, origin)


def check(source: LabelSource) -> int:
    """Read every label once and count them. Raises `ManifestInvalid`, also where there is none."""
    num_labels = sum(1 for _ in source())
    if not num_labels:
        raise ManifestInvalid("There is nothing to label: no labels were given.")
    return num_labels


def _form_of(path: Path) -> str:
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where it may not look
        return "folder"
    form = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "label-studio"}.get(path.suffix.lower())
    if form is None:
        raise ManifestInvalid(f"{str(path)!r} is neither a folder nor a .csv, .jsonl or .json file; say its --format.")
    return form


# ---------------------------------------------------------------- a folder per class


def _folder(folder: Path, origin: Origin) -> Iterator[LabelledImage]:
    # Not resolved: a link's own name is the reference, and may be the class.
    root = Path.cwd() / folder
    with manifests.reading(root):
        entries = sorted(root.iterdir())
        classes = [entry for entry in entries if entry.is_dir()]
        _check_layout(root, [entry.name for entry in classes], [entry for entry in entries if _is_image(entry.name)])
        for folder_of_class in classes:
            for where, name in _images(folder_of_class):
                wire = {"label": folder_of_class.name, "reference": as_reference(name, where)}
                yield _labelled(wire, origin, "folder", f"Folder {folder_of_class.name!a}")


def _images(folder: Path) -> Iterator[tuple[str, str]]:
    """Find the images anywhere below a folder, in order; one that cannot be looked into is an error, not empty."""
    for where, below, files in os.walk(folder, onerror=_raise):
        below.sort()
        yield from ((where, name) for name in sorted(files) if _is_image(name))


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in manifests.IMAGE_SUFFIXES


def _raise(wrong: OSError) -> None:
    raise wrong


def _check_layout(root: Path, classes: list[str], astray: list[Path]) -> None:
    if astray:
        raise ManifestInvalid(
            f"{astray[0].name!a} lies beside the class folders of {root}; an image's folder is its label."
        )
    if classes and SPLITS.issuperset(name.lower() for name in classes):
        raise ManifestInvalid(
            f"The folders of {root} ({', '.join(classes)}) are splits, not classes: import them one by one. "
            "imagemill draws its own splits."
        )


# ---------------------------------------------------------------- files of lines


def _csv(file: Path, origin: Origin) -> Iterator[LabelledImage]:
    return _lines(manifests.csv_lines(file, NEEDS, MAY_HAVE), file, origin, "csv")


def _jsonl(file: Path, origin: Origin) -> Iterator[LabelledImage]:
    return _lines(manifests.jsonl_lines(file), file, origin, "jsonl")


def _lines(lines: Iterator[tuple[int, Any]], file: Path, origin: Origin, source: str) -> Iterator[LabelledImage]:
    base = str(file.resolve().parent)
    for line_number, wire in lines:
        image = _labelled(wire, origin, source, f"Line {line_number}")
        yield replace(image, reference=as_reference(image.reference, base)) if image.inline is None else image


def _labelled(wire: Any, origin: Origin, source: str, where: str) -> LabelledImage:
    if isinstance(wire, Mapping):
        wire = {"who": origin.who, "source": source, **wire}
    try:
        return LabelledImage.parse(wire)
    except MessageInvalid as wrong:
        raise ManifestInvalid(f"{where}: {wrong}") from None


# ---------------------------------------------------------------- Label Studio's export


def _label_studio(file: Path, origin: Origin) -> Iterator[LabelledImage | RefusedLabel]:
    try:
        with manifests.reading(file), file.open(encoding="utf-8-sig") as text:
            for line_number, task in json_list.elements(text):
                yield from _task_rows(task, line_number, origin)
    except json_list.JsonListInvalid as wrong:
        raise ManifestInvalid(str(wrong)) from None


def _task_rows(task: Any, line_number: int, origin: Origin) -> Iterator[LabelledImage | RefusedLabel]:
    try:
        yield from label_studio.task_rows(task, origin.project)
    except MessageInvalid as wrong:
        raise ManifestInvalid(f"Line {line_number}: {wrong}") from None


#: How each kind of source is read.
FORMS: Mapping[str, Callable[[Path, Origin], Iterator[LabelledImage | RefusedLabel]]] = {
    "folder": _folder,
    "csv": _csv,
    "jsonl": _jsonl,
    "label-studio": _label_studio,
}
