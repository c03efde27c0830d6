"""What a user names becomes items, and every mistake is found before anything is sent."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import references
from worker import client, manifests, messages
from worker.manifests import ManifestInvalid
from worker.messages import Item, Submission

#: names that a URL would bend
AWKWARD = ("plain.png", "a b.png", "100%.png", "a#b.png", "is it?.png", "%41.png", "größe.png", "\udcff.png")


def items_of(file: Path, text: str | bytes) -> list[Item]:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = manifests.from_manifest(file)
    manifests.check(source)
    return list(source())


def complaint(read: Callable[[], object]) -> str:
    with pytest.raises(ManifestInvalid) as refused:
        read()
    return str(refused.value)


MANIFESTS = {
    "jsonl": ("m.jsonl", '{"reference": "1.jpg", "key": "one"}\n"s3://bucket/2.jpg"\n'),
    "jsonl with blank lines": ("m.jsonl", '\n{"reference": "1.jpg", "key": "one"}\n  \n\n"s3://bucket/2.jpg"'),
    "jsonl with a BOM": ("m.txt", '\ufeff{"reference": "1.jpg", "key": "one"}\r\n"s3://bucket/2.jpg"\r\n'),
    "csv": ("m.csv", "reference,key\n1.jpg,one\ns3://bucket/2.jpg,\n"),
    "csv with a BOM": ("m.CSV", "\ufeffkey,reference,width\r\none,1.jpg,7\r\n\r\n,s3://bucket/2.jpg,9\r\n"),
}


@pytest.mark.parametrize(("name", "text"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_gives_keys_and_references_relative_to_its_folder(tmp_path: Path, name: str, text: str) -> None:
    folder = tmp_path / "its folder"
    folder.mkdir()
    first = Item(reference=f"file://{tmp_path}/its%20folder/1.jpg", key="one")
    assert items_of(folder / name, text) == [first, Item(reference="s3://bucket/2.jpg")]


def test_a_manifest_may_carry_small_images(tmp_path: Path) -> None:
    assert items_of(tmp_path / "m.jsonl", '{"bytes": "aGk=", "key": "one"}') == [Item(inline=b"hi", key="one")]


@pytest.mark.parametrize("name", AWKWARD, ids=ascii)
def test_a_file_of_any_name_survives_to_the_fetch(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(b"its bytes")
    monkeypatch.chdir(tmp_path)
    roots = references.Roots.parse([str(tmp_path)])
    for named in (name, str(tmp_path / name), str(tmp_path)):
        [item] = manifests.from_references([named])()
        assert item.reference.isascii()
        assert references.fetch(Item.parse(item.reference).reference, roots, max_bytes=99) == b"its bytes"
        assert Path(messages.local_path(item.reference)).read_bytes() == b"its bytes"


WRONG = {
    "not JSON": ("m.jsonl", '"a.jpg"\n{"reference"\n', "Line 2 is not JSON: "),
    "nested beyond reading": ("m.jsonl", "[" * 100_000, "Line 1 is not JSON: "),
    "neither text nor object": ("m.jsonl", '"a.jpg"\n\n7\n', "Line 3: An item must be an object, not int."),
    "unknown field": ("m.jsonl", '{"url": "a.jpg"}', "Line 1: Unknown field in an item: url."),
    "key of a wrong type": ("m.jsonl", '{"reference": "a", "key": 7}', "Line 1: `key` must be text of 1 to 4096"),
    "NUL": ("m.jsonl", '"a\\u0000.jpg"', "Line 1: `reference` must not contain a NUL character."),
    "half a character": ("m.jsonl", '"\\ud800.jpg"', "Line 1: `reference` must not contain half a surrogate pair."),
    "not UTF-8": ("m.jsonl", b'"\xff.jpg"', "m.jsonl is not UTF-8 text."),
    "CSV not UTF-8": ("m.csv", b"reference\n\xff.jpg\n", "m.csv is not UTF-8 text."),
    "empty": ("m.jsonl", "\n\n", "There is nothing to classify: no items were given."),
    "only a header": ("m.csv", "reference,key\n", "There is nothing to classify: no items were given."),
    "empty CSV": ("m.csv", "", "Line 1: a CSV manifest needs a header with `reference`, and perhaps `key`."),
    "no such column": ("m.csv", "image\na.jpg\n", "Line 1: a CSV manifest needs a header with `reference`"),
    "a field too many": ("m.csv", "reference,key\na,b\na,c,d\n", "Line 3 does not have as many fields as the header."),
    "a field too few": ("m.csv", "reference,key\na\n", "Line 2 does not have as many fields as the header."),
    "an empty reference": ("m.csv", "reference,key\n,b\n", "Line 2: An item needs either `reference` or `bytes`."),
    "an open quote": ("m.csv", 'reference\n"a.jpg\n', "Line 2 is not CSV: "),
    "an open quote in the header": ("m.csv", '"reference\n', "Line 1 is not CSV: "),
    "duplicate key": (
        "m.jsonl",
        '{"reference": "a", "key": "k"}\n"b"\n{"reference": "c", "key": "k"}',
        "Item 3: the key 'k' was given before; keys must be unique.",
    ),
    "too long once quoted": ("m.jsonl", json.dumps("ü" * 1000), "Item 1: its reference has more than 4096 characters."),
}


@pytest.mark.parametrize(("name", "text", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_manifest_is_refused_with_its_line(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    assert complaint(lambda: items_of(tmp_path / name, text)).startswith(sentence)


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "x" * 300], ids=["missing", "a folder", "too long"])
def test_a_manifest_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    assert complaint(lambda: manifests.from_manifest(tmp_path / name)).startswith("There is no manifest ")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `photos` below the current one, with images at two depths and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("2.PNG", "1.jpg", "deep/3.webp", "notes.txt"):
        (folder / name).write_bytes(b"x")
    (folder / "folder.jpg").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


ALL = ["1.jpg", "2.PNG", "deep/3.webp"]
EXPANSIONS = {
    "a folder, recursively": ("photos", ALL),
    "an absolute folder": ("{photos}", ALL),
    "a glob": ("photos/*.jpg", ["1.jpg"]),
    "a glob over folders": ("photos/**", ALL),
    "a glob that matches folders": ("pho*", ALL),
    "a file": ("photos/1.jpg", ["1.jpg"]),
    "a file that is no image": ("photos/notes.txt", ["notes.txt"]),
    "a missing file": ("photos/gone.jpg", ["gone.jpg"]),
}


@pytest.mark.parametrize(("text", "names"), EXPANSIONS.values(), ids=EXPANSIONS)
def test_what_a_user_names_expands_in_order(photos: Path, text: str, names: list[str]) -> None:
    found = manifests.from_references([text.format(photos=photos)])()
    assert [item.reference for item in found] == [f"{photos.as_uri()}/{name}" for name in names]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("photos/*.gif", "Nothing matches 'photos/*.gif'."),
        ("photos/*.txt", "Nothing matches 'photos/*.txt'."),
        ("empty", "The folder 'empty' has no images."),
    ],
)
def test_a_name_that_gives_nothing_is_refused(photos: Path, text: str, sentence: str) -> None:
    assert complaint(lambda: manifests.from_references(["photos/1.jpg", text])) == sentence


@pytest.mark.parametrize("text", ["s3://bucket/*.jpg", "gs://x/a?b#c", "file:///a%20b.jpg", "https://x.test/[1].jpg"])
def test_a_reference_with_a_scheme_passes_as_it_is(text: str) -> None:
    assert list(manifests.from_references([text])()) == [Item(reference=text)]


@pytest.mark.parametrize("text", ["x" * 300 + ".jpg", "~nobody-here/a.jpg"], ids=["too long", "an unknown user's"])
def test_a_path_that_nobody_could_open_passes_through(photos: Path, text: str) -> None:
    [item] = manifests.from_references([text])()
    assert messages.local_path(item.reference).endswith(text)


def test_a_job_holds_only_so_many_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_JOB_ITEMS", 2)  # ten million would take a minute
    too_many = manifests.from_references(["s3://b/1.jpg"] * 3)
    assert complaint(lambda: manifests.check(too_many)).startswith("A job holds at most 2 items, not 3;")


def test_a_long_manifest_takes_constant_memory(tmp_path: Path) -> None:
    file, num_items = tmp_path / "m.jsonl", 30_000
    with file.open("w") as lines:
        lines.writelines(f'{{"reference": "images/{n}.jpg", "key": "key-{n:09}"}}\n' for n in range(num_items))
    source = manifests.from_manifest(file)
    tracemalloc.start()
    try:
        num_checked = manifests.check(source)
        header = Submission(job_id="", items=(), num_items=num_checked)
        sizes = [len(part.items) for part in client.parts(header, source)]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) == num_checked == num_items
    assert max(sizes) <= messages.MAX_PART_ITEMS
    assert peak_bytes < 1_000_000  # its keys alone would be 2 MB
