"""What was suggested is written for a person or for Label Studio, and read back as labels."""

import json
from pathlib import Path

import pytest

from worker import label_files, label_studio, worklists
from worker.label_files import Origin
from worker.label_studio import Project
from worker.manifests import ManifestInvalid
from worker.worklists import Entry

ODD = "file:///mill/photos/a%20b/%C3%A9%231.png"
ENTRIES = [Entry(reference=ODD, predicted="cat", probability=0.6), Entry(reference="s3://photos/2.png")]


PROJECT = Project(local_files="/mill/photos")


def write(file: Path, form: str, project: Project = PROJECT) -> str:
    worklists.write(ENTRIES, file, form, version="pets:1", project=project)
    return file.read_text()


def test_a_list_is_imported_once_its_labels_are_filled_in(tmp_path: Path) -> None:
    file = tmp_path / "next.jsonl"
    written = write(file, "jsonl").splitlines()
    with pytest.raises(ManifestInvalid, match="Line 1: `label`"):
        label_files.check(label_files.open_source(file, Origin(who="ada")))
    filled = [json.loads(line) | {"label": label} for line, label in zip(written, ("cat", "dog"), strict=True)]
    file.write_text("".join(json.dumps(line) + "\n" for line in filled))
    rows = list(label_files.open_source(file, Origin(who="ada"))())
    assert [(one.reference, one.label, one.who, one.source) for one in rows] == [
        (ODD, "cat", "ada", "suggested"),
        ("s3://photos/2.png", "dog", "ada", "suggested"),
    ]


def test_tasks_carry_predictions_in_label_studios_form(tmp_path: Path) -> None:
    first, second = json.loads(write(tmp_path / "tasks.json", "label-studio"))
    assert first["data"] == {"image": "/data/local-files/?d=a%20b/%C3%A9%231.png"}
    assert first["predictions"] == [
        {
            "model_version": "pets:1",
            "score": 0.6,
            "result": [{"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}],
        }
    ]
    assert second == {"data": {"image": "s3://photos/2.png"}}


def test_a_project_with_other_names_gets_them(tmp_path: Path) -> None:
    project = Project(image="photo", choices="kind", local_files="/mill")
    [first, _] = json.loads(write(tmp_path / "tasks.json", "label-studio", project))
    assert first["data"] == {"photo": "/data/local-files/?d=photos/a%20b/%C3%A9%231.png"}
    assert first["predictions"][0]["result"][0]["from_name"] == "kind"


def test_what_label_studio_sends_back_names_the_same_images(tmp_path: Path) -> None:
    tasks = json.loads(write(tmp_path / "tasks.json", "label-studio"))
    choice = {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": ["hen"]}}
    for number, task in enumerate(tasks):
        task["annotations"] = [{"id": number, "result": [choice], "completed_by": 1}]
    rows = [row for task in tasks for row in label_studio.task_rows(task, PROJECT)]
    assert [(row.reference, row.label) for row in rows] == [(entry.reference, "hen") for entry in ENTRIES]


@pytest.mark.parametrize("folder", ["", "/mill/photos/other", "/mill/phot"])
def test_files_that_label_studio_cannot_open_are_refused_and_nothing_is_written(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ManifestInvalid, match="--local-files"):
        write(tmp_path / "tasks.json", "label-studio", Project(local_files=folder))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "asked", "form"),
    [("a.jsonl", None, "jsonl"), ("a.json", None, "label-studio"), ("a.txt", "jsonl", "jsonl")],
)
def test_the_ending_or_the_asker_chooses_the_format(tmp_path: Path, name: str, asked: str | None, form: str) -> None:
    assert worklists.form_of(tmp_path / name, asked) == form


def test_a_list_that_may_hold_labels_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "next.jsonl"
    file.write_text("work of an afternoon")
    with pytest.raises(ManifestInvalid, match="is there already"):
        worklists.form_of(file, None)
    with pytest.raises(ManifestInvalid, match="say its --format"):
        worklists.form_of(tmp_path / "next.txt", None)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ManifestInvalid, match="cannot be written"):
        write(tmp_path / "none" / "next.jsonl", "jsonl")
