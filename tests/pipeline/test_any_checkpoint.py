"""Whatever a checkpoint, a file of weights, of classes or a reference holds: a value, or a refusal in a sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import checkpoints, classes, references, state_dicts
from pipeline.cards import Card
from pipeline.errors import ClassesInvalid, ItemUnfetchable, PipelineError
from tests import builders
from tests.garbage import NASTY, damaged, damaged_bytes, damaged_text
from tests.properties import refusal, tried


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint, never changed."""
    return Path(builders.tiny_checkpoint(tmp_path_factory.mktemp("sound")).reference.removeprefix("file://"))


@pytest.fixture
def broken(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged again and again."""
    return Path(shutil.copytree(sound, tmp_path / "broken"))


def card_of(folder: Path) -> dict[str, Any]:
    given_card: dict[str, Any] = json.loads((folder / checkpoints.CARD).read_bytes())
    return given_card


def check_load(folder: Path) -> None:
    """Load and replay it: what is raised is one of ours."""

    def load() -> None:
        checkpoints.load(folder.as_uri(), sha256=None)
        checkpoints.verify(folder.as_uri(), None)

    refusal(load, by=PipelineError, most=50_000)


@pytest.mark.filterwarnings("ignore")  # torch warns of what it then refuses
@tried(60)
@given(data=st.data())
def test_a_damaged_card_is_refused_or_loads(sound: Path, broken: Path, data: st.DataObject) -> None:
    text = json.dumps(data.draw(damaged(card_of(sound)))).encode()
    (broken / checkpoints.CARD).write_bytes(text)
    if not refusal(Card.from_bytes, text, by=PipelineError, most=50_000):
        card = Card.from_bytes(text)
        assert Card.from_bytes(card.as_bytes()) == card
    check_load(broken)


@tried(30)
@given(text=st.data())
def test_a_damaged_file_of_a_card_is_refused_or_loads(sound: Path, broken: Path, text: st.DataObject) -> None:
    whole = json.dumps(card_of(sound), indent=2)
    (broken / checkpoints.CARD).write_bytes(text.draw(damaged_text(st.just(whole))))
    check_load(broken)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [checkpoints.WEIGHTS, checkpoints.PARITY])
@tried(80)
@given(data=st.data())
def test_damaged_tensors_under_a_seal_that_fits_are_refused_or_load(
    sound: Path, broken: Path, name: str, data: st.DataObject
) -> None:
    content = data.draw(damaged_bytes(st.just((sound / name).read_bytes()), edits=3))
    sealed(sound, broken, name, content)
    check_load(broken)


def other_tensors() -> st.SearchStrategy[dict[str, torch.Tensor]]:
    shapes = st.lists(st.integers(0, 5), max_size=4)
    kinds = st.sampled_from([torch.uint8, torch.float32, torch.float16, torch.int64, torch.bool])
    tensors = st.builds(lambda shape, kind: torch.zeros(shape, dtype=kind), shapes, kinds)
    return st.dictionaries(st.sampled_from(["images", "logits", "0.weight", "other"]), tensors, max_size=3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [checkpoints.WEIGHTS, checkpoints.PARITY])
@tried(60)
@given(changed=other_tensors())
@example(changed={"images": torch.zeros(4, 3, 32, 32), "logits": torch.zeros(4, 3)})
@example(changed={"images": torch.zeros(0, 3, 32, 32, dtype=torch.uint8), "logits": torch.zeros(0, 3)})
@example(changed={"images": torch.zeros(4, 1, 9, dtype=torch.uint8)})
@example(changed={"logits": torch.zeros(4, 3, dtype=torch.bool)})
def test_other_tensors_under_a_seal_that_fits_are_refused_or_load(
    sound: Path, broken: Path, name: str, changed: dict[str, torch.Tensor]
) -> None:
    tensors = safetensors.torch.load((sound / name).read_bytes())
    sealed(sound, broken, name, safetensors.torch.save(tensors | changed))
    check_load(broken)


def sealed(sound: Path, broken: Path, name: str, content: bytes) -> None:
    """Put a file into the broken copy, with a card that vouches for it, and all else sound."""
    for each in (checkpoints.WEIGHTS, checkpoints.PARITY):
        (broken / each).write_bytes((sound / each).read_bytes())
    (broken / name).write_bytes(content)
    seal = name.replace(".safetensors", "_sha256")
    card = card_of(sound) | {seal: hashlib.sha256(content).hexdigest()}
    (broken / checkpoints.CARD).write_text(json.dumps(card))


# ---------------------------------------------------------------- weights of somebody else


def pickled(tmp_path: Path, content: object, *, is_old: bool) -> bytes:
    torch.save(content, tmp_path / "valid.pth", _use_new_zipfile_serialization=not is_old)
    return (tmp_path / "valid.pth").read_bytes()


WEIGHTS = {"0.weight": torch.zeros(2, 3), "0.bias": torch.ones(2)}
WRITERS: dict[str, Callable[[Path], bytes]] = {
    ".safetensors": lambda _: safetensors.torch.save(WEIGHTS),
    ".pth": lambda folder: pickled(folder, {"state_dict": WEIGHTS, "epoch": 3}, is_old=False),
    ".pt": lambda folder: pickled(folder, WEIGHTS, is_old=True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", WRITERS)
@tried(150)
@given(data=st.data())
def test_a_damaged_file_of_weights_gives_tensors_or_a_refusal(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    file = tmp_path / f"weights{ending}"
    file.write_bytes(data.draw(damaged_bytes(st.just(WRITERS[ending](tmp_path)))))
    if not refusal(state_dicts.read, file, by=PipelineError, most=50_000):
        assert all(isinstance(tensor, torch.Tensor) for tensor in state_dicts.read(file).values())


# ---------------------------------------------------------------- classes and references

CLASSES = {
    ".txt": "cat\ndog\n\nhen\n",
    ".json": '["cat", "dog", "hen"]',
    ".csv": 'index,name,wnid\n0,cat,n1\n2,"hen",n3\n1,dog,n2\n',
    ".tsv": "label\tid\ncat\t1\ncat\t2\n",
}


@pytest.mark.parametrize("ending", CLASSES)
@tried(120)
@given(data=st.data())
def test_a_file_of_classes_gives_names_that_can_be_kept_or_a_refusal(
    tmp_path: Path, ending: str, data: st.DataObject
) -> None:
    file = tmp_path / f"classes{ending}"
    file.write_bytes(data.draw(damaged_text(st.just(CLASSES[ending]))))
    if refusal(classes.read_classes, file, by=ClassesInvalid, most=50_000):
        return
    names = classes.read_classes(file)
    assert len(set(names)) == len(names) > 0
    for name in names:
        assert name.strip()
        assert "\0" not in name
        name.encode()


WRONG = {
    "brackets without end": ("classes.json", "[" * 5000),
    "half a character": ("classes.json", '["cat", "\\ud800"]'),
    "a NUL": ("classes.json", '["cat", "a\\u0000b"]'),
    "a field without end": ("classes.csv", "name\n" + "x" * 200_000),
}


@pytest.mark.parametrize(("name", "text"), WRONG.values(), ids=WRONG)
def test_classes_that_cannot_be_kept_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert refusal(classes.read_classes, tmp_path / name, by=ClassesInvalid)


@tried(300)
@given(data=st.data())
def test_a_reference_gives_the_bytes_under_a_root_or_a_refusal(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / "photo.jpg").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    fsspec.filesystem("memory").pipe_file("/in/photo.jpg", b"inside")
    fsspec.filesystem("memory").pipe_file("/secret", b"outside")
    roots = references.Roots.parse([str(tmp_path / "in"), "memory://in", "s3://bucket"])
    valid = st.sampled_from(
        [f"{tmp_path}/in/photo.jpg", f"file://{tmp_path}/in/photo.jpg", "memory://in/photo.jpg", f"{tmp_path}/secret"]
    )
    reference = data.draw(damaged_text(valid)).decode(errors="surrogateescape")
    reference += data.draw(st.sampled_from(["", "", "/../../secret", "%2e%2e/", "::file:///etc/passwd", *NASTY]))
    if reference.startswith("s3://bucket"):
        return  # a store that is not there: another test's
    if not refusal(lambda: references.fetch(reference, roots, max_bytes=100), by=ItemUnfetchable):
        assert references.fetch(reference, roots, max_bytes=100) == b"inside"


@tried(100)
@given(root=st.sampled_from(NASTY) | st.text("file:/.s3localhost\0\udcff", max_size=20))
@example(root="file://elsewhere/photos")
@example(root="file://localhost/photos")
@example(root="file:///photos%00")
def test_a_root_is_a_place_or_is_refused(root: str) -> None:
    if not refusal(references.Roots.parse, [root], by=ValueError, most=50_000):
        [prefix] = references.Roots.parse([root]).prefixes
        assert prefix.startswith("/") or "://" in prefix
