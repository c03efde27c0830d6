"""What a user names becomes labelled images, and every mistake of form is found before anything is recorded."""

import json
import tracemalloc
from pathlib import Path

import pytest

from pipeline import references
from worker import label_files
from worker.cli import parser_learning
from worker.label_files import Origin
from worker.label_studio import Project
from worker.learning_messages import LabelledImage
from worker.manifests import ManifestInvalid

ADA = Origin(who="ada")


def read(path: Path, form: str | None = None, origin: Origin = ADA) -> list[object]:
    source = label_files.open_source(path, origin, form=form)
    rows = list(source())
    assert label_files.check(source) == len(rows), "a second pass gives the same"
    return rows


def complaint(path: Path, form: str | None = None) -> str:
    with pytest.raises(ManifestInvalid) as refused:
        read(path, form)
    return str(refused.value)


FILES = {
    "csv": ("l.csv", "reference,label,who,group\n1.jpg,cat,grace,g1\ns3://bucket/2.jpg,dog,,\n"),
    "csv with a BOM and more": (
        "l.CSV",
        "\ufefflabel,split,reference,group,who\r\n cat,test,1.jpg,g1,grace\r\n\r\ndog ,a,s3://bucket/2.jpg,,\r\n",
    ),
    "jsonl": (
        "l.jsonl",
        """{"reference": "1.jpg", "label": "cat", "who": "grace", "group": "g1"}

        {"reference": "s3://bucket/2.jpg", "label": "dog"}""",
    ),
    "ndjson": (
        "l.ndjson",
        """{"label": "cat", "reference": "1.jpg", "who": "grace", "group": "g1", "source": "jsonl"}
        {"reference": "s3://bucket/2.jpg", "label": "dog"}""",
    ),
}


@pytest.mark.parametrize(("name", "text"), FILES.values(), ids=FILES)
def test_a_file_gives_labels_with_references_relative_to_its_folder(tmp_path: Path, name: str, text: str) -> None:
    folder = tmp_path / "its folder"
    folder.mkdir()
    (folder / name).write_text(text)
    kind = "csv" if name.lower().endswith("csv") else "jsonl"
    first = f"file://{tmp_path}/its%20folder/1.jpg"
    assert read(folder / name) == [
        LabelledImage(reference=first, label="cat", who="grace", source=kind, group="g1"),
        LabelledImage(reference="s3://bucket/2.jpg", label="dog", who="ada", source=kind),
    ]


def test_a_file_may_carry_small_images(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text('{"bytes": "aGk=", "label": "cat", "key": "event 7"}')
    assert read(tmp_path / "l.jsonl") == [
        LabelledImage(inline=b"hi", label="cat", who="ada", source="jsonl", key="event 7")
    ]


def test_a_folder_per_class_gives_every_image_below_it(tmp_path: Path) -> None:
    for name in ("dog/2.png", "cat/a b.JPG", "cat/deep/er/1.webp", "cat/notes.txt", "ré d/3.bmp", "readme.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"its bytes")
    (tmp_path / "empty").mkdir()
    rows = read(tmp_path)
    base = f"file://{tmp_path}"
    assert [(row.label, row.reference.removeprefix(base)) for row in rows] == [
        ("cat", "/cat/a%20b.JPG"), ("cat", "/cat/deep/er/1.webp"), ("dog", "/dog/2.png"),
        ("ré d", "/r%C3%A9%20d/3.bmp"),
    ]  # fmt: skip
    assert {(row.who, row.source) for row in rows} == {("ada", "folder")}
    roots = references.Roots.parse([str(tmp_path)])
    assert all(references.fetch(row.reference, roots, max_bytes=99) == b"its bytes" for row in rows)


def test_a_linked_class_folder_is_one_and_a_relative_name_is_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "\udcff.png").write_bytes(b"")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    [row] = read(Path("set"))
    assert (row.label, row.reference) == ("cat", f"file://{tmp_path}/set/cat/%FF.png")


WRONG = {
    "not JSON": ("l.jsonl", '{"reference": "a", "label": "b"}\n{"reference"\n', "Line 2 is not JSON: "),
    "a bare reference": ("l.jsonl", '"a.jpg"\n', "Line 1: A labelled image must be an object, not str."),
    "no label": ("l.jsonl", '\n{"reference": "a.jpg"}\n', "Line 2: `label` must be text of 1 to 4096 characters."),
    "no reference": ("l.jsonl", '{"label": "cat"}\n', "Line 1: A labelled image needs either `reference` or `bytes`."),
    "reference of a wrong type": ("l.jsonl", '{"reference": 7, "label": "b"}', "Line 1: `reference` must be text of"),
    "half a character": ("l.jsonl", '{"reference": "\\ud800", "label": "b"}', "Line 1: `reference` must not contain"),
    "unknown field": ("l.jsonl", '{"reference": "a", "label": "b", "split": "c"}', "Line 1: Unknown field in a label"),
    "not UTF-8": ("l.jsonl", b'{"reference": "\xff"}', "l.jsonl is not UTF-8 text."),
    "no header": ("l.csv", "a.jpg,cat\n", "Line 1: a CSV manifest needs a header with `reference` and `label`, and "),
    "empty label": ("l.csv", "reference,label\na.jpg,cat\nb.jpg,\n", "Line 3: `label` must be text of 1 to 4096"),
    "empty reference": ("l.csv", "reference,label\n,cat\n", "Line 2: A labelled image needs either `reference` or"),
    "a field too few": ("l.csv", "reference,label\na\n", "Line 2 does not have as many fields as the header."),
    "an open quote": ("l.csv", 'reference,label\na,b\n"c,d\n', "Line 3 is not CSV: unexpected end of data."),
    "nothing": ("l.csv", "reference,label\n", "There is nothing to label: no labels were given."),
    "not a list": ("l.json", '{"id": 1}', "Line 1: the file must be a JSON list."),
    "a list of text": ("l.json", '["a"]', "Line 1: A task must be an object with `data`; export as JSON, not as JSON-"),
    "JSON-MIN": ("l.json", '[\n{"image": "a", "choice": "cat"}]', "Line 2: A task must be an object with `data`; expo"),
    "annotations as text": ("l.json", '[{"data": {}, "annotations": "x"}]', "Line 1: A task's `annotations` must be"),
    "no labels": ("l.json", '[{"data": {"image": "a"}}]', "There is nothing to label: no labels were given."),
    "another ending": ("l.xlsx", "", "'{path}' is neither a folder nor a .csv, .jsonl or .json file; say its --form"),
}


@pytest.mark.parametrize(("name", "text", "said"), WRONG.values(), ids=WRONG)
def test_a_mistake_of_form_is_named_by_its_line(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert complaint(file).startswith(said.format(path=file))


LAYOUTS = {
    "an image beside the classes": (["cat/1.png", "2.png"], "'2.png' lies beside the class folders of {root}; an "),
    "splits": (["train/cat/1.png", "Test/cat/2.png"], "The folders of {root} (Test, train) are splits, not classes:"),
    "no images": (["cat/notes.txt"], "There is nothing to label: no labels were given."),
    "a name that is no text": (["\udcff/1.png"], "Folder '\\udcff': `label` must not contain half a surrogate pair."),
}


@pytest.mark.parametrize(("names", "said"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_folder_of_another_layout_is_refused(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert complaint(tmp_path).startswith(said.format(root=tmp_path))


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("gone.csv", None, "There is no file '{root}/gone.csv'."),
        ("gone", "folder", "There is no folder '{root}/gone'."),
        ("", "csv", "There is no file '{root}'."),
        ("x" * 300 + ".csv", None, "There is no file "),
    ],
)
def test_a_source_that_is_not_there_is_refused(tmp_path: Path, name: str, form: str | None, said: str) -> None:
    assert complaint(tmp_path / name, form).startswith(said.format(root=tmp_path))


def test_an_export_of_label_studio_gives_its_choices(tmp_path: Path) -> None:
    choice = {"value": {"choices": ["cat"]}, "from_name": "class", "to_name": "image", "type": "choices"}
    annotation = {"id": 7, "result": [choice], "completed_by": 3, "updated_at": "2026-11-23T10:00:00.000000Z"}
    tasks = [
        {"id": 1, "data": {"image": "s3://b/1.jpg"}, "annotations": [annotation]},
        {"id": 2, "data": {"image": "s3://b/2.jpg"}, "annotations": []},
        {"id": 3, "data": {"image": "s3://b/3.jpg"}, "annotations": [annotation | {"id": 8, "was_cancelled": True}]},
        {"id": 4, "data": {"image": "/data/upload/3/a b.png"}, "annotations": [annotation | {"id": 9}]},
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks, indent=2))
    first, refused = read(tmp_path / "export.json")
    key = "label-studio:7:2026-11-23T10:00:00.000000Z"
    assert first == LabelledImage(
        reference="s3://b/1.jpg", label="cat", who="label-studio user 3", source="label-studio", key=key
    )
    assert refused.message.startswith("Annotation 9: Label Studio serves /data/upload/3/a b.png itself; say where")
    known = Origin(who="ada", project=Project(uploads="/media/upload"))
    assert read(tmp_path / "export.json", origin=known)[1].reference == "file:///media/upload/3/a%20b.png"


def test_every_format_can_be_asked_for() -> None:
    assert set(parser_learning.FORMATS) == set(label_files.FORMS)


def test_a_long_file_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "l.csv"
    with file.open("w") as lines:
        lines.write("reference,label\n")
        lines.writelines(f"photos/{n}.jpg,class {n % 7}\n" for n in range(20_000))
    source = label_files.open_source(file, ADA)
    tracemalloc.start()
    assert label_files.check(source) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
