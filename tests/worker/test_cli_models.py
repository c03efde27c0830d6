"""Versions are made, shown, promoted, rolled back and verified from the command line."""

import os
import re
from pathlib import Path

import pytest
import torch

from pipeline import checkpoints, digits
from tests.worker.machine import Machine, sentence


class Trap:
    """What runs code where a pickle of it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_a_version_is_made_from_a_file_and_the_first_one_serves(machine: Machine) -> None:
    ran = machine.import_model()
    assert (ran.code, ran.err) == (0, "")
    assert "tensors fit, mapped by names." in ran.out
    assert "cats:1 serves; submit images with: imagemill submit --wait photos/ --model cats" in ran.out
    assert "add cats to IMAGEMILL_MODELS" in ran.out
    second = machine.import_model("--json", seed=2).json
    assert (second["name"], second["serves"], second["report"]["mapped_by"]) == ("cats:2", False, "names")
    listed = machine.run("models", "list", "--json").json
    assert [(one["name"], one["serves"]) for one in listed] == [("cats:2", False), ("cats:1", True)]


def test_weights_that_hold_code_make_no_version_and_run_nothing(machine: Machine) -> None:
    machine.import_model()
    mark = machine.home / "executed"
    for seed, content in enumerate((Trap(mark), {"state_dict": {}, "extra": Trap(mark)}), start=2):
        torch.save(content, machine.home / f"code-{seed}.pt")
        named = ("--arch", digits.ARCH, "--weights", machine.home / f"code-{seed}.pt", "--classes")
        ran = machine.run("models", "import", *named, machine.home / "classes.txt", "--model", "cats")
        assert "it was not executed" in sentence(ran, 1)
    assert not mark.exists()
    assert len(machine.run("models", "list", "--json").json) == 1


def test_a_version_shows_its_card_and_its_modules(machine: Machine) -> None:
    machine.import_model()
    shown = machine.run("models", "show", "cats").out
    for fact in ("cats:1 pipeline.digits:small_network", "classes    3: cat; dog; hen", "resize 32, crop 32"):
        assert fact in shown
    assert re.search(r"Conv2d [\d,]+  trainable  weight \d+×3×3×3", shown)
    told = machine.run("models", "show", "cats:1", "--json").json
    assert told["card"]["classes"] == ["cat", "dog", "hen"]
    assert {"name", "type", "depth", "num_parameters", "trainable", "shapes"} <= set(told["modules"][0])


def test_the_pointer_moves_forth_and_back_and_remembers(machine: Machine) -> None:
    for seed in (1, 2):
        machine.import_model(seed=seed)
    assert machine.run("models", "promote", "cats:2", "--reason", "better [/b]").out.startswith("cats:2 serves now;")
    assert machine.run("models", "rollback", "cats", "--json").json["name"] == "cats:1"
    history = machine.run("models", "history", "cats", "--json").json
    moves = [(one["kind"], one["previous"], one["version"], one["reason"]) for one in history]
    assert moves == [
        ("promote", None, "cats:1", "the model's first version"),
        ("promote", "cats:1", "cats:2", "better [/b]"),
        ("rollback", "cats:2", "cats:1", ""),
    ]
    assert "better [/b]" in machine.run("models", "history", "cats").out
    assert sentence(machine.run("models", "rollback", "cats"), 1) == "No version of 'cats' served before cats:1."


def test_a_whole_checkpoint_is_verified(machine: Machine) -> None:
    machine.import_model()
    assert machine.run("models", "verify", "cats:1").out.startswith("cats:1 is whole")
    assert machine.run("models", "verify", "cats", "--json").json["verified"] is True


@pytest.mark.parametrize("verb", ["verify", "promote"])
@pytest.mark.parametrize("name", [checkpoints.WEIGHTS, checkpoints.PARITY, checkpoints.CARD])
def test_a_checkpoint_with_a_flipped_byte_is_refused(machine: Machine, verb: str, name: str) -> None:
    machine.import_model()
    reference = machine.import_model("--json", seed=2).json["reference"]
    file = Path(reference.removeprefix("file://")) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert f"{name} of {reference} was changed" in sentence(machine.run("models", verb, "cats:2"), 1)
    assert [one["serves"] for one in machine.run("models", "list", "--json").json] == [False, True]
