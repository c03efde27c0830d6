"""Labels are added, imported and counted from the command line, without a broker."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from db import labels, session
from tests.worker import builders, teaching
from tests.worker.machine import Machine, Ran, sentence
from worker.learning_messages import LabelsReceipt

MODEL = ("--model", "cats")


@pytest.fixture(autouse=True)
def _roots(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images may lie in `photos`."""
    monkeypatch.setenv("IMAGEMILL_ALLOWED_ROOTS", str(photos))


@pytest.fixture
def classes(photos: Path) -> Path:
    """A folder per class: three cats, two dogs."""
    for seed, name in enumerate(("cat/0", "cat/1", "cat/2", "dog/3", "dog/4")):
        teaching.image(photos / "set" / f"{name}.png", seed=seed)
    return photos / "set"


def told(ran: Ran) -> str:
    """Check that a command worked and kept stderr clean; give what it printed."""
    assert (ran.code, ran.err) == (0, ""), ran
    return ran.out


def test_images_are_labelled_by_name_folder_and_glob(machine: Machine, photos: Path) -> None:
    for name, seed in (("a.png", 1), ("more/b.png", 2), ("more/c.png", 3)):
        teaching.image(photos / name, seed=seed)
    ran = machine.run("labels", "add", photos / "a.png", photos / "more", "--label", "cat", "--who", "ada", *MODEL)
    assert told(ran) == "Labels of cats: 3 added, 0 corrected, 0 unchanged, 0 refused.\n"
    again = machine.run("labels", "add", f"{photos}/more/*.png", "--label", " dog", "--group", "g", *MODEL, "--json")
    assert again.json == asdict(LabelsReceipt(model="cats", num_corrected=2)) | {"refused": []}
    assert teaching.known(machine.sessions) == {
        (photos / "a.png").as_uri(): "cat",
        (photos / "more/b.png").as_uri(): "dog",
        (photos / "more/c.png").as_uri(): "dog",
    }


def test_a_folder_per_class_is_imported_and_a_second_time_changes_nothing(machine: Machine, classes: Path) -> None:
    first, second = (machine.run("labels", "import", classes, *MODEL) for _ in range(2))
    assert told(first) == "Labels of cats: 5 added, 0 corrected, 0 unchanged, 0 refused.\n"
    assert told(second) == "Labels of cats: 0 added, 0 corrected, 5 unchanged, 0 refused.\n"
    assert teaching.per_class(machine.sessions) == {"cat": 3, "dog": 2}


def test_files_moved_to_another_class_are_corrections(machine: Machine, classes: Path) -> None:
    machine.run("labels", "import", classes, *MODEL)
    (classes / "cat/0.png").rename(classes / "dog/0.png")
    assert "0 added, 1 corrected, 4 unchanged" in told(machine.run("labels", "import", classes, *MODEL))
    (classes / "dog/0.png").rename(classes / "cat/0.png")
    assert "0 added, 1 corrected, 4 unchanged" in told(machine.run("labels", "import", classes, *MODEL))
    assert teaching.per_class(machine.sessions) == {"cat": 3, "dog": 2}


def test_a_file_is_imported_and_what_is_refused_is_shown(machine: Machine, photos: Path) -> None:
    teaching.image(photos / "1.png", seed=1)
    (photos / "2.png").write_text("this is no image")
    file = photos / "labels.csv"
    file.write_text("reference,label,who\n1.png,cat,grace\n2.png,[/dog],\ngone.png,cat,\n/etc/hostname,cat,\n")
    ran = machine.run("labels", "import", file, *MODEL)
    assert (ran.code, ran.err) == (1, "")
    assert "Labels of cats: 1 added, 0 corrected, 0 unchanged, 3 refused." in ran.out
    for said in ("[/dog]", "The file is not an image of a known format.", "There is no such file.", "IMAGEMILL_ALLOW"):
        assert said in ran.out
    refused = machine.run("labels", "import", file, *MODEL, "--json").json["refused"]
    assert [(one["position"], one["kind"]) for one in refused] == [
        (1, "not_an_image"),
        (2, "missing"),
        (3, "outside_roots"),
    ]


def test_an_export_of_label_studio_is_imported_once(machine: Machine, photos: Path) -> None:
    teaching.image(photos / "1.png", seed=1)
    choice = {"value": {"choices": ["cat"]}, "from_name": "class", "to_name": "image", "type": "choices"}
    annotation = {"id": 7, "result": [choice], "completed_by": 3, "updated_at": "2026-11-23T10:00:00.000000Z"}
    tasks = [{"id": 1, "data": {"pic": "/data/local-files/?d=1.png", "of": "x"}, "annotations": [annotation]}]
    file = photos / "export.json"
    file.write_text(json.dumps(tasks))
    plain = machine.run("labels", "import", file, *MODEL)
    assert plain.code == 1
    assert "which field of its task" in plain.out
    how = ("--image-field", "pic", "--local-files", photos, *MODEL)
    assert "1 added" in told(machine.run("labels", "import", file, *how))
    assert "1 unchanged" in told(machine.run("labels", "import", file, *how, "--format", "label-studio"))


def test_stats_show_classes_splits_duplicates_and_conflicts(machine: Machine, classes: Path, photos: Path) -> None:
    machine.run("labels", "import", classes, "--who", "ada", *MODEL)
    machine.run("labels", "add", classes / "dog/4.png", "--label", "cat", "--who", "grace", *MODEL)
    with session.transaction(machine.sessions) as transaction:
        labels.remove_class(transaction, "cats", "dog")
    shown = told(machine.run("labels", "stats", *MODEL))
    for said in ("class", "train", "val", "test", "excluded", "dog (removed)", "5 images in", "6 labels given"):
        assert said in shown
    assert "Conflicts" in shown
    assert "dog, cat" in shown
    known = machine.run("labels", "stats", *MODEL, "--json").json
    assert [(one["name"], one["is_removed"]) for one in known["per_class"]] == [("cat", False), ("dog", True)]
    assert known["conflicts"][0]["who"] == ["ada", "grace"]
    assert "none" in told(machine.run("labels", "stats", "--model", "dogs"))


WRONG = {
    "nothing there": (("labels", "import", "gone.csv"), "There is no file 'gone.csv'."),
    "no kind": (("labels", "import", "gone.xlsx"), "'gone.xlsx' is neither a folder nor a .csv, .jsonl or .json file;"),
    "no match": (("labels", "add", "gone/*.png", "--label", "cat"), "Nothing matches 'gone/*.png'."),
    "empty label": (("labels", "add", "a.png", "--label", " "), "`label` must be one line of 1 to 200 characters."),
    "group too long": (("labels", "add", "a", "--label", "b", "--group", "x" * 501), "`group` must be text of 1 to 50"),
    "model": (("labels", "add", "a", "--label", "b", "--model", "Cats!"), "'Cats!' cannot name a model: use lower-"),
    "model to count": (("labels", "stats", "--model", "Cats!"), "'Cats!' cannot name a model: use lower-case"),
    "bare webhook": (("webhook",), "The webhook never runs open: set IMAGEMILL_WEBHOOK_TOKEN (or ..._FILE) to a"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_done_is_one_sentence(machine: Machine, arguments: tuple[str, ...], said: str) -> None:
    assert sentence(machine.run(*arguments), 2).startswith(said)


def test_a_mistake_of_form_is_named_before_anything_is_recorded(machine: Machine, photos: Path) -> None:
    teaching.image(photos / "1.png", seed=1)
    (photos / "labels.jsonl").write_text('{"reference": "1.png", "label": "cat"}\n{"reference": "1.png"}\n')
    said = sentence(machine.run("labels", "import", photos / "labels.jsonl", *MODEL), 2)
    assert said == "Line 2: `label` must be text of 1 to 4096 characters."
    assert teaching.known(machine.sessions) == {}


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("short", "IMAGEMILL_WEBHOOK_TOKEN makes no sense: give at least 16 ASCII characters without a space."),
        ("with a space in it", "IMAGEMILL_WEBHOOK_TOKEN makes no sense: give at least 16 ASCII characters without a s"),
        ("0123456789abcdef", "No Redis answers at redis://:**@127.0.0.1:1/0"),
    ],
)
def test_a_webhook_that_cannot_run_says_why(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    monkeypatch.setenv("IMAGEMILL_WEBHOOK_TOKEN", token)
    assert sentence(machine.run("webhook"), 2).startswith(said)


def test_settings_hide_the_token(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEMILL_WEBHOOK_TOKEN", "0123456789abcdef")
    shown, printed = machine.run("settings").out, machine.run("settings", "--json")
    assert "0123456789abcdef" not in shown + printed.out
    assert {one["value"] for one in printed.json if one["variable"] == "IMAGEMILL_WEBHOOK_TOKEN"} == {"***"}


def test_labels_need_no_model_version(machine: Machine, classes: Path) -> None:
    told(machine.run("labels", "import", classes, "--model", builders.MODEL))
    assert machine.run("models", "list").out == "Versions: none\n"
