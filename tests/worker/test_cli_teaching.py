"""What to label next, audits and classes from the command line, without a broker."""

import json
from pathlib import Path

import pytest

from db import classes, labels, session
from tests.worker import builders, teaching
from tests.worker.machine import Machine, Ran, sentence
from tests.worker.schools import picture
from worker.cli import output

MODEL = ("--model", builders.MODEL)
PETS = ("cat", "dog", "hen")


@pytest.fixture(autouse=True)
def _roots(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images may lie in `photos`."""
    monkeypatch.setenv("IMAGEMILL_ALLOWED_ROOTS", str(photos))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def labelled(machine: Machine, photos: Path) -> Machine:
    """A machine with a serving version and twenty labelled pictures of each class."""
    for name in PETS:
        (photos / "set" / name).mkdir(parents=True)
        for seed in range(20):
            picture(name, 1000 * PETS.index(name) + seed).save(photos / "set" / name / f"{seed}.png")
    machine.import_model()
    told(machine.run("labels", "import", photos / "set", *MODEL))
    return machine


@pytest.fixture
def unlabelled(photos: Path) -> Path:
    """A folder of twelve pictures that nobody has labelled."""
    (photos / "new").mkdir()
    for seed in range(12):
        picture(PETS[seed % 3], 70_000 + seed).save(photos / "new" / f"{seed}.png")
    return photos / "new"


def told(ran: Ran) -> str:
    """Check that a command worked; give what it printed."""
    assert ran.code == 0, ran
    return ran.out


def test_suggestions_are_printed_and_a_list_of_them_imported(
    labelled: Machine, unlabelled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "next.jsonl"
    asked = ("labels", "suggest", "--from", unlabelled, *MODEL, "--num", 5)
    shown = told(labelled.run(*asked, "--out", out))
    for fact in ("margin", "random", f"all under {unlabelled.as_uri()}/", "cats:1 looked at 12 images", str(out)):
        assert fact in shown
    found = labelled.run(*asked, "--json").json
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["reference"] for line in lines] == [one["reference"] for one in found["suggestions"]]
    assert {line["label"] for line in lines} == {""}
    assert "`label`" in sentence(labelled.run("labels", "import", out, *MODEL), 2)
    out.write_text("".join(json.dumps(line | {"label": "cat"}) + "\n" for line in lines))
    assert "5 added" in told(labelled.run("labels", "import", out, *MODEL))
    again = labelled.run(*asked, "--json").json
    assert (again["num_pool"], again["num_labelled"]) == (7, 5)
    assert "is there already" in sentence(labelled.run(*asked, "--out", out), 2)


def test_suggestions_go_to_label_studio(labelled: Machine, unlabelled: Path, photos: Path, tmp_path: Path) -> None:
    asked = ("labels", "suggest", "--from", unlabelled, *MODEL, "--num", 3, "--out", tmp_path / "tasks.json")
    assert "--local-files" in sentence(labelled.run(*asked), 2)
    told(labelled.run(*asked, "--local-files", photos))
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert len(tasks) == 3
    for task in tasks:
        assert task["data"]["image"].startswith("/data/local-files/?d=new/")
        assert task["predictions"][0]["model_version"] == "cats:1"


def test_a_format_without_a_file_and_a_model_that_can_be_none_are_wrong_usage(machine: Machine) -> None:
    assert "--out FILE" in sentence(machine.run("labels", "suggest", "--format", "jsonl"), 2)
    for verb in (("suggest",), ("audit",), ("classes",), ("remove-class", "cat"), ("fix-classes", "cat")):
        assert "cannot name a model" in sentence(machine.run("labels", *verb, "--model", "No Model"), 2)


def test_where_nothing_was_classified_it_says_what_to_do(labelled: Machine) -> None:
    shown = told(labelled.run("labels", "suggest", *MODEL))
    assert "name images with --from" in shown
    assert "No version of nobody" not in shown
    assert sentence(labelled.run("labels", "suggest", "--model", "nobody"), 2).startswith("No version of 'nobody'")


def test_an_audit_prints_suspects_and_counts(labelled: Machine, photos: Path) -> None:
    wrong = photos / "wrong.png"
    picture("cat", 80_000).save(wrong)
    told(labelled.run("labels", "add", wrong, "--label", "hen", *MODEL))
    shown = told(labelled.run("labels", "audit", *MODEL))
    for fact in ("wrong.png", "of 61 labels are suspect", "no near duplicates are in two splits", "p(suggested)"):
        assert fact in shown
    found = labelled.run("labels", "audit", *MODEL, "--json").json
    [one] = [one for one in found["suspects"] if one["reference"] == wrong.as_uri()]
    assert (one["label"], one["suggested"]) == ("hen", "cat")
    assert found["leaks"] == []
    few = told(labelled.run("labels", "audit", *MODEL, "--num", 1))
    assert ("These are the first 1" in few) == (len(found["suspects"]) > 1)


def test_an_audit_without_labels_says_so(machine: Machine) -> None:
    machine.import_model()
    assert sentence(machine.run("labels", "audit", *MODEL), 1)


def test_classes_are_listed_removed_and_brought_back(labelled: Machine, photos: Path) -> None:
    assert "removed" not in told(labelled.run("labels", "classes", *MODEL))
    said = told(labelled.run("labels", "remove-class", "dog", *MODEL))
    assert "keeps its number 1 and its 20 labels" in said
    listed = labelled.run("labels", "classes", *MODEL, "--json").json
    assert listed["is_fixed"] is False
    assert [(one["number"], one["name"], one["is_removed"]) for one in listed["classes"]] == [
        (0, "cat", False), (1, "dog", True), (2, "hen", False),
    ]  # fmt: skip
    assert sum(listed["classes"][1][split] for split in ("train", "val", "test", "excluded")) == 20
    assert "removed" in told(labelled.run("labels", "classes", *MODEL))
    for name in ("dog", "horse"):
        assert f"no class {name!r}" in sentence(labelled.run("labels", "remove-class", name, *MODEL), 2)
    teaching.image(photos / "back.png", seed=5)
    told(labelled.run("labels", "add", photos / "back.png", "--label", "dog", *MODEL))
    assert [one["is_removed"] for one in labelled.run("labels", "classes", *MODEL, "--json").json["classes"]] == [
        False
    ] * 3


def test_a_closed_list_refuses_other_classes_and_keeps_numbers(labelled: Machine, photos: Path) -> None:
    said = told(labelled.run("labels", "fix-classes", "hen", "cat", "fox", *MODEL))
    assert said == "The classes of cats are closed at cat, hen, fox. Removed: dog.\n"
    with session.reading(labelled.sessions) as reading:
        assert [(one.number, one.name, one.is_removed) for one in labels.classes(reading, builders.MODEL)] == [
            (0, "cat", False), (1, "dog", True), (2, "hen", False), (3, "fox", False),
        ]  # fmt: skip
        assert classes.is_fixed(reading, builders.MODEL)
    assert "The list is closed" in told(labelled.run("labels", "classes", *MODEL))
    teaching.image(photos / "other.png", seed=5)
    refused = labelled.run("labels", "add", photos / "other.png", "--label", "dog", *MODEL)
    assert (refused.code, "is fixed and has no class 'dog'" in refused.out) == (1, True)


def test_a_list_is_closed_as_it_stands_but_not_without_any_class(labelled: Machine) -> None:
    said = told(labelled.run("labels", "fix-classes", *MODEL))
    assert said == "The classes of cats are closed at cat, dog, hen.\n"
    assert labelled.run("labels", "fix-classes", *MODEL, "--json").json["removed"] == []
    assert "no classes yet" in sentence(labelled.run("labels", "fix-classes", "--model", "nobody"), 2)
    assert "one line" in sentence(labelled.run("labels", "fix-classes", "a\nb", *MODEL), 2)


def test_what_the_playbook_lists_is_changed_in_the_playbook(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "playbook.toml"
    file.write_text('classes = ["cat", "dog"]\n')
    monkeypatch.setenv("IMAGEMILL_PLAYBOOK", str(file))
    for verb in (("remove-class", "cat"), ("fix-classes", "cat")):
        said = sentence(machine.run("labels", *verb, *MODEL), 2)
        assert said == f"The playbook lists the classes of cats: change `classes` in {file}."


@pytest.mark.parametrize(
    ("references", "folder", "names"),
    [
        (["file:///a/b/1.png", "file:///a/b/c/2.png"], "file:///a/b/", ["1.png", "c/2.png"]),
        (["file:///a/bc/1.png", "file:///a/bd/1.png"], "file:///a/", ["bc/1.png", "bd/1.png"]),
        (["file:///a/1.png"], "file:///a/", ["1.png"]),
        (["file:///a/1.png", "s3://a/1.png"], "", ["file:///a/1.png", "s3://a/1.png"]),
        (["s3://a/1.png", "s3://b/1.png"], "", ["s3://a/1.png", "s3://b/1.png"]),
        ([], "", []),
    ],
)
def test_references_are_parted_at_the_folder_they_share(references: list[str], folder: str, names: list[str]) -> None:
    assert output.apart(references) == (folder, names)
