"""A checkpoint proves itself, or says what is broken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from torch import nn

from pipeline import checkpoints, state_dicts, stores
from pipeline.errors import ArchitectureUnknown, CheckpointBroken, ClassesInvalid, StoreUnreachable
from tests import builders

NOW_S = 1_700_000_000.0


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store on this machine and one that is not."""
    if request.param == "file":
        yield tmp_path.as_uri()
        return
    yield "memory://store"
    fsspec.filesystem("memory").rm("/store", recursive=True)


def folder_of(saved: checkpoints.Saved) -> Path:
    return Path(saved.reference.removeprefix("file://"))


def test_what_was_saved_loads_and_gives_the_same_logits(store: str) -> None:
    network = builders.tiny_network()
    saved = checkpoints.save(network, builders.tiny_draft(metrics={"top1": 0.5}), store, now_s=NOW_S)
    loaded = checkpoints.load(saved.reference, sha256=saved.sha256)
    images = torch.zeros(2, 3, 32, 32)
    assert torch.equal(loaded.network(images), network(images))
    assert loaded.card == saved.card == checkpoints.read_card(saved.reference, saved.sha256)
    assert not loaded.network.training
    checkpoints.verify(saved.reference, saved.sha256)


def test_the_card_says_everything(tmp_path: Path) -> None:
    draft = builders.tiny_draft(
        arch_options={}, temperature=1.5, metrics={"top1": 0.9}, snapshot="abc", parent="v1", frozen=("0.", "1.")
    )
    saved = checkpoints.save(builders.tiny_network(), draft, tmp_path.as_uri(), now_s=NOW_S)
    card = checkpoints.Card.from_dict(json.loads((folder_of(saved) / "card.json").read_text()))
    assert card == saved.card
    assert (card.temperature, card.snapshot, card.parent, card.created_at_s) == (1.5, "abc", "v1", NOW_S)
    assert saved.reference == f"{tmp_path.as_uri()}/checkpoints/{folder_of(saved).name}"
    assert len(folder_of(saved).name) == 16


def test_frozen_parameters_are_not_trainable_after_loading(tmp_path: Path) -> None:
    saved = checkpoints.save(
        builders.tiny_network(), builders.tiny_draft(frozen=("0.",)), tmp_path.as_uri(), now_s=NOW_S
    )
    network = checkpoints.load(saved.reference, sha256=saved.sha256).network
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert "0.weight" not in trainable
    assert {"1.weight", "14.weight"} <= trainable


def test_saving_the_same_twice_writes_it_once(store: str) -> None:
    first = builders.tiny_checkpoint(store, now_s=NOW_S)
    assert builders.tiny_checkpoint(store, now_s=NOW_S + 60) == first
    assert builders.tiny_checkpoint(store, seed=1).reference != first.reference


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    saved = builders.tiny_checkpoint(tmp_path)
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == [folder_of(saved).name]
    names = {entry.name for entry in folder_of(saved).iterdir()}
    assert names == {"weights.safetensors", "parity.safetensors", "card.json"}


def test_a_crash_while_writing_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores, "_sync", crash)  # a full disk cannot be had on demand
    with pytest.raises(StoreUnreachable, match="No space left"):
        builders.tiny_checkpoint(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_the_card_is_written_last_where_nothing_can_be_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    written: list[str] = []
    put = type(memory).pipe_file

    def spy(self: object, name: str, *rest: object, **more: object) -> None:
        written.append(name.rpartition("/")[2])
        put(self, name, *rest, **more)

    monkeypatch.setattr(type(memory), "pipe_file", spy)
    builders.tiny_checkpoint("memory://order")
    memory.rm("/order", recursive=True)
    assert written == ["weights.safetensors", "parity.safetensors", "card.json"]


@pytest.mark.parametrize("name", ["weights.safetensors", "parity.safetensors", "card.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_any_damage_is_found_and_named(tmp_path: Path, name: str, damage: str) -> None:
    saved = builders.tiny_checkpoint(tmp_path)
    file = folder_of(saved) / name
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.unlink() if damage == "remove" else file.write_bytes(data if damage == "flip" else data[:-1])
    with pytest.raises(CheckpointBroken, match=name):
        checkpoints.load(saved.reference, sha256=saved.sha256)
    if damage != "remove" or name != "card.json":
        with pytest.raises(CheckpointBroken):
            builders.tiny_checkpoint(tmp_path)


def test_another_card_than_the_registered_one_is_refused(tmp_path: Path) -> None:
    saved = builders.tiny_checkpoint(tmp_path)
    with pytest.raises(CheckpointBroken, match="was changed"):
        checkpoints.read_card(saved.reference, "0" * 64)


def test_a_reference_to_nothing_is_refused(store: str) -> None:
    builders.tiny_checkpoint(store)
    with pytest.raises(CheckpointBroken, match="There is no checkpoint"):
        checkpoints.load(f"{store}/checkpoints/0000000000000000", sha256=None)


def test_a_store_without_a_driver_is_unreachable() -> None:
    with pytest.raises(StoreUnreachable, match="no driver"):
        checkpoints.load("gopher://host/checkpoints/0", sha256=None)


def test_a_store_that_cannot_be_written_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnreachable, match="could not be written"):
        builders.tiny_checkpoint(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 3}, "format 3"),
        ({"format": None}, "format None"),
        ({"extra": 1}, "extra"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"preprocess": {}}, "lacks"),
        ({"preprocess": 3}, "object"),
        ({"classes": "abc"}, "lists"),
        ({"arch": "mobilenet_v2"}, "architecture"),
        ({"classes": ["a", "b"]}, "architecture"),
    ],
    ids=str,
)
def test_a_card_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    saved = builders.tiny_checkpoint(tmp_path)
    card = folder_of(saved) / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    with pytest.raises(CheckpointBroken, match=sentence):
        checkpoints.load(saved.reference, sha256=None)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_a_card_that_is_not_an_object_is_refused(tmp_path: Path, text: str) -> None:
    saved = builders.tiny_checkpoint(tmp_path)
    (folder_of(saved) / "card.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointBroken, match="JSON"):
        checkpoints.read_card(saved.reference, None)


def test_a_card_with_the_files_of_another_network_fails_its_parity(tmp_path: Path) -> None:
    ours, theirs = builders.tiny_checkpoint(tmp_path), builders.tiny_checkpoint(tmp_path, seed=1)
    (folder_of(ours) / "weights.safetensors").write_bytes((folder_of(theirs) / "weights.safetensors").read_bytes())
    card = json.loads((folder_of(ours) / "card.json").read_text())
    card["weights_sha256"] = theirs.card.weights_sha256
    (folder_of(ours) / "card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointBroken, match="does not give the logits"):
        checkpoints.verify(ours.reference, None)


@pytest.mark.parametrize("classes", [(), ("a", "b"), ("a", "b", "c", "d"), ("a", "b", "b"), ("a", "b", "")], ids=str)
def test_classes_that_do_not_name_each_output_once_are_refused(tmp_path: Path, classes: tuple[str, ...]) -> None:
    with pytest.raises(ClassesInvalid):
        checkpoints.save(builders.tiny_network(3), builders.tiny_draft(classes), tmp_path.as_uri(), now_s=NOW_S)
    assert not (tmp_path / "checkpoints").exists()


def test_a_network_that_its_architecture_does_not_build_is_not_saved(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    with pytest.raises(CheckpointBroken, match="architecture"):
        checkpoints.save(network, builders.tiny_draft(), tmp_path.as_uri(), now_s=NOW_S)
    with pytest.raises(ArchitectureUnknown):
        checkpoints.save(network, builders.tiny_draft(arch="nonesuch"), tmp_path.as_uri(), now_s=NOW_S)


def test_weights_that_are_not_numbers_are_not_saved(tmp_path: Path) -> None:
    network = builders.tiny_network()
    with torch.no_grad():
        network.get_parameter("14.bias").fill_(float("nan"))
    with pytest.raises(CheckpointBroken, match="not finite"):
        checkpoints.save(network, builders.tiny_draft(), tmp_path.as_uri(), now_s=NOW_S)


def test_tied_weights_survive(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = builders.tied_network(3)
    draft = builders.tiny_draft(arch="tests.builders:tied_network")
    saved = checkpoints.save(network, draft, tmp_path.as_uri(), now_s=NOW_S)
    loaded = checkpoints.load(saved.reference, sha256=saved.sha256).network
    assert torch.equal(loaded.get_parameter("3.weight"), network.get_parameter("3.weight"))
    checkpoints.verify(saved.reference, saved.sha256)


def test_what_the_card_calls_frozen_must_be_what_training_started_from(tmp_path: Path) -> None:
    network = builders.tiny_network()
    proof = state_dicts.digest(network.state_dict(), ("0.",))
    draft = builders.tiny_draft(frozen=("0.",), frozen_sha256=proof)
    saved = checkpoints.save(network, draft, tmp_path.as_uri(), now_s=0.0)
    checkpoints.verify(saved.reference, saved.sha256)
    with torch.no_grad():
        network.get_parameter("0.weight").add_(1e-3)
    with pytest.raises(CheckpointBroken, match="frozen is not what training started from"):
        checkpoints.save(network, draft, tmp_path.as_uri(), now_s=0.0)
