"""A run starts from the head it is given, ends with the best epoch, and survives whatever stops it."""

from __future__ import annotations

import copy
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import TrainingDiverged
from pipeline.learning import epochs, features, heads, layers, states, streams, worlds
from tests.pipeline.learning import trainees

ROOT = Path(__file__).parents[3]


class Cancelled(Exception):
    """The run was cancelled."""


def stop_after(num_batches: int) -> trainees.Callable[[], None]:
    """Give a keep_going that cancels at the batch after so many."""
    left = iter(range(num_batches))

    def keep_going() -> None:
        if next(left, None) is None:
            raise Cancelled

    return keep_going


# ---------------------------------------------------------------- what a run gives


def test_a_run_learns_what_can_be_learned(tmp_path: Path) -> None:
    recipe = trainees.settled(epochs=8, batch_norm="train", learning_rate=0.1, backbone_scale=1.0)
    trained = trainees.run(tmp_path, recipe=recipe)
    assert trained.ended == "finished"
    assert [epoch.number for epoch in trained.epochs] == list(range(1, 9))
    assert trained.start.val_accuracy < 0.5
    assert trained.epochs[trained.best - 1].val_accuracy > 0.9
    assert trained.epochs[-1].train_loss < trained.epochs[0].train_loss
    assert all(epoch.images_per_s > 0 and epoch.batch_size == 16 for epoch in trained.epochs)
    assert not trained.network.training
    assert trained.notes == ()


def test_the_network_given_is_left_as_it_is(tmp_path: Path) -> None:
    student = trainees.network()
    before = copy.deepcopy(student)
    trained = trainees.run(tmp_path, student=student)
    assert trainees.equal(student, before)
    assert not trainees.equal(trained.network, before)
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_training_starts_from_the_solved_head(tmp_path: Path) -> None:
    student, train, val = trainees.network(), trainees.Coloured(48, 3, seed=1), trainees.Coloured(24, 3, seed=2)
    parts = layers.layers(student, trainees.SIZE)
    values = [
        features.extract(student, parts, trainees.PREPROCESS, [pictures.images], device=torch.device("cpu"))
        for pictures in (train, val)
    ]
    head = heads.fit(values[0], train.targets, 3, l2=0.1)
    heads.apply(student, parts, head)
    probe = nn.functional.cross_entropy(heads.logits(head, values[1]), torch.tensor(val.targets))
    trained = trainees.run(tmp_path, student=student, train=train, val=val)
    assert trained.start.number == 0
    assert trained.start.val_nll == pytest.approx(float(probe), abs=1e-5)
    assert trained.start.train_loss is None


def test_the_network_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    val = trainees.Coloured(24, 3, seed=2)
    trained = trainees.run(tmp_path, val=val, recipe=trainees.settled(epochs=6, batch_norm="train"))
    with torch.no_grad():
        logits = trained.network(trainees.PREPROCESS.normalize(val.images))
    nll = nn.functional.cross_entropy(logits, torch.tensor(val.targets))
    best = (trained.start, *trained.epochs)[trained.best]
    assert best.val_nll == pytest.approx(float(nll), abs=1e-5)
    assert best.val_balanced_accuracy == max(epoch.val_balanced_accuracy for epoch in trained.epochs)


@pytest.mark.parametrize("strategy", ["head", "last_stage", "all"])
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_frozen_means_frozen_to_the_bit(tmp_path: Path, strategy: str, batch_norm: str) -> None:
    student = trainees.network()
    parts = layers.layers(student, trainees.SIZE)
    recipe = trainees.settled(strategy=strategy, batch_norm=batch_norm, epochs=2)
    trained = trainees.run(tmp_path, student=student, recipe=recipe)
    assert trained.frozen_sha256 == layers.digest(student.state_dict(), trained.frozen)
    assert trained.frozen_sha256 == layers.digest(trained.network.state_dict(), trained.frozen)
    frozen = {unit for unit in parts.units if f"{unit}." in trained.frozen}
    assert frozen == set(parts.units) - set(parts.trained(strategy))  # type: ignore[arg-type]
    moved = {
        name
        for name, tensor in trained.network.state_dict().items()
        if not torch.equal(tensor, student.state_dict()[name])
    }
    statistics = {name for name in moved if "running" in name or "tracked" in name}
    assert bool(statistics) == (batch_norm == "train" and strategy != "head")
    assert f"{parts.head}.weight" in moved


# ---------------------------------------------------------------- the same again


def test_the_same_seed_gives_the_same_bits_whatever_the_threads_do(tmp_path: Path) -> None:
    recipe = trainees.settled(mixup=0.2, batch_norm="train")
    student = trainees.network(dropout=0.3)
    one = trainees.run(tmp_path / "one", student=student, recipe=recipe, num_threads=1)
    torch.rand(5)
    other = trainees.run(tmp_path / "other", student=student, recipe=recipe, num_threads=5)
    assert trainees.equal(one.network, other.network)
    third = trainees.run(tmp_path / "third", student=student, recipe=recipe, seed=2)
    assert not trainees.equal(one.network, third.network)


def test_a_run_leaves_the_callers_own_chance_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    trainees.run(tmp_path)
    assert torch.equal(torch.rand(3), expected)


RECIPES = {
    "plain": {},
    "average_off": {"ema": "off"},
    "statistics": {"batch_norm": "train", "mixup": 0.2},
    "adam": {"optimizer": "AdamW", "learning_rate": 0.01},
    "half": {"precision": "fp16"},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_is_cancelled_again_and_again_ends_with_the_same_bits(tmp_path: Path, name: str) -> None:
    student, recipe = trainees.network(dropout=0.2), trainees.settled(**RECIPES[name], epochs=5)
    whole = trainees.run(tmp_path / "whole", student=student, recipe=recipe)
    told: list[int] = []
    more: dict[str, Any] = {"student": student, "recipe": recipe, "on_epoch": lambda epoch: told.append(epoch.number)}
    # An epoch has 5 or 7 batches, 2 or 4 of them to validate on: within the first validation, the first epoch,
    # the validation after it, and the epochs that follow.
    for num_batches in (0, 4, 6, 9, 8, 3):
        with pytest.raises(Cancelled):
            trainees.run(tmp_path / "torn", keep_going=stop_after(num_batches), **more)
    torn = trainees.run(tmp_path / "torn", **more)
    assert trainees.equal(torn.network, whole.network)
    assert told == [1, 2, 3, 4, 5]
    assert [timeless(epoch) for epoch in torn.epochs] == [timeless(epoch) for epoch in whole.epochs]
    assert (torn.best, torn.ended) == (whole.best, whole.ended)


def timeless(epoch: epochs.Epoch) -> dict[str, object]:
    return {**epoch.as_dict(), "seconds": 0.0, "images_per_s": 0.0}


def test_a_killed_process_loses_no_whole_epoch(tmp_path: Path) -> None:
    whole = trainees.run(tmp_path / "whole")
    command = [sys.executable, "-m", "tests.pipeline.learning.trainees", str(tmp_path / "torn")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    told: list[int] = []
    torn = trainees.run(tmp_path / "torn", on_epoch=lambda epoch: told.append(epoch.number))
    assert told == [2, 3, 4]
    assert trainees.equal(torn.network, whole.network)


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    first = trainees.run(tmp_path)
    again = trainees.run(tmp_path, keep_going=stop_after(0))
    assert again.epochs == first.epochs
    assert trainees.equal(again.network, first.network)


@pytest.mark.parametrize("change", ["seed", "recipe", "labels", "network"])
def test_the_state_of_another_run_is_not_taken_up(tmp_path: Path, change: str) -> None:
    student, train = trainees.network(), trainees.Coloured(48, 3, seed=1)
    more: dict[str, object] = {"student": student, "train": train}
    trainees.run(tmp_path, **more)
    if change == "seed":
        more["seed"] = 2
    elif change == "recipe":
        more["recipe"] = trainees.settled(learning_rate=0.04)
    elif change == "labels":
        train.targets = train.targets[1:] + train.targets[:1]
    else:
        more["student"] = nn.Sequential(*student[:-1], nn.Linear(16, 4))
        more["num_classes"] = 4
    told: list[int] = []
    trainees.run(tmp_path, **more, on_epoch=lambda epoch: told.append(epoch.number))
    assert told == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["state.pt", "best"])
def test_a_damaged_state_is_as_good_as_none(tmp_path: Path, name: str) -> None:
    trained = trainees.run(tmp_path)
    file = tmp_path / (states.BEST.format(number=trained.best) if name == "best" else name)
    file.write_bytes(file.read_bytes()[:-200])
    told: list[int] = []
    again = trainees.run(tmp_path, on_epoch=lambda epoch: told.append(epoch.number))
    assert told == [1, 2, 3, 4]
    assert trainees.equal(again.network, trained.network)


def test_one_state_and_one_best_network_are_kept(tmp_path: Path) -> None:
    trained = trainees.run(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {states.STATE} | ({states.BEST.format(number=trained.best)} if trained.best else set())


# ---------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path: Path) -> None:
    recipe = trainees.settled(learning_rate=100.0, backbone_scale=10.0, gradient_clip=0, warmup_share=0, epochs=9)
    with pytest.raises(TrainingDiverged, match="learning rate, which is 100"):
        trainees.run(tmp_path, student=exploding(), recipe=recipe)


def exploding() -> nn.Module:
    """A network without normalisation, whose activations grow with its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wide = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*wide, nn.Linear(8, 3))


def test_where_memory_runs_out_the_batch_is_halved_to_the_same_end(tmp_path: Path) -> None:
    roomy = trainees.run(tmp_path / "roomy", student=trainees.Cramped(trainees.network(), 1000))
    tight = trainees.run(tmp_path / "tight", student=trainees.Cramped(trainees.network(), 5))
    assert tight.notes == (
        "out of memory: batch halved to 8, accumulating 2",
        "out of memory: batch halved to 4, accumulating 4",
    )
    assert {epoch.batch_size for epoch in tight.epochs} == {4}
    for ours, theirs in zip(tight.network.parameters(), roomy.network.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_what_fits_is_remembered_when_a_run_goes_on(tmp_path: Path) -> None:
    student = trainees.Cramped(trainees.network(), 5)
    with pytest.raises(Cancelled):
        trainees.run(tmp_path, student=student, keep_going=stop_after(9))
    sizes: list[int] = []
    trained = trainees.run(tmp_path, student=student, on_epoch=lambda epoch: sizes.append(epoch.batch_size))
    assert sizes == [4, 4, 4]
    assert len(trained.notes) == 2


def test_where_not_even_one_image_fits_the_run_says_so(tmp_path: Path) -> None:
    class Full(trainees.Cramped):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) if not self.training else super().forward(images.repeat(99, 1, 1, 1))

    with pytest.raises(torch.OutOfMemoryError):
        trainees.run(tmp_path, student=Full(trainees.network(), 64))


def test_a_picture_that_cannot_be_drawn_ends_the_run(tmp_path: Path) -> None:
    class Torn(trainees.Coloured):
        def train(self, index: int, rng: np.random.Generator) -> Tensor:
            raise ValueError(f"picture {index} is torn")

    with pytest.raises(ValueError, match="is torn"):
        trainees.run(tmp_path, train=Torn(48, 3, seed=1))


# ---------------------------------------------------------------- when to stop


def test_a_run_that_memorises_gives_the_head_it_began_with(tmp_path: Path) -> None:
    # Labels without meaning: the best head knows nothing, and whatever is learned is learned by heart.
    train, val = trainees.Coloured(24, 3, seed=3, contrast=0.0), trainees.Coloured(48, 3, seed=4, contrast=0.0)
    student = trainees.network()
    layers.replace_head(student, layers.layers(student, trainees.SIZE), 3)
    recipe = trainees.settled(
        num_train=24, epochs=60, learning_rate=0.2, backbone_scale=1.0, batch_norm="train", metric="nll", patience=0
    )
    trained = trainees.run(tmp_path, student=student, train=train, val=val, recipe=recipe)
    assert trained.start.val_nll == pytest.approx(math.log(3))
    assert trained.ended == "memorised"
    assert len(trained.epochs) < 60
    assert trained.best == 0
    assert trainees.equal(trained.network, student)


def test_a_run_without_a_better_epoch_ends_early(tmp_path: Path) -> None:
    recipe = trainees.settled(epochs=50, patience=3, batch_norm="train", learning_rate=0.1, schedule="constant")
    trained = trainees.run(tmp_path, recipe=recipe)
    assert trained.ended == "early"
    assert len(trained.epochs) == trained.best + 3


def test_the_average_is_taken_where_it_is_better(tmp_path: Path) -> None:
    recipe = trainees.settled(epochs=6, learning_rate=0.3, backbone_scale=1.0, batch_norm="train", schedule="constant")
    trained = trainees.run(tmp_path, recipe=recipe, val=trainees.Coloured(60, 3, seed=9))
    assert any(epoch.is_average for epoch in trained.epochs)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ("num", "sizes"), [(48, [16, 16, 16]), (50, [13, 13, 12, 12]), (16, [16]), (1, [1]), (17, [9, 8])]
)
def test_batches_are_of_nearly_equal_size(num: int, sizes: list[int]) -> None:
    chunks = streams.cut(np.arange(num), 16)
    assert [len(chunk) for chunk in chunks] == sizes
    assert [index for chunk in chunks for index in chunk] == list(range(num))


def test_every_process_gets_its_own_rows_and_as_many_as_the_others() -> None:
    world = [Two(rank=0), Two(rank=1)]
    assert [worlds.own([5, 6, 7], each) for each in world] == [[5, 7], [6, 5]]
    assert [worlds.num_own(3, each) for each in world] == [2, 1]
    assert [worlds.own([5], each) for each in world] == [[5], [5]]
    assert [worlds.num_own(1, each) for each in world] == [1, 0]


class Two(worlds.Alone):
    def __init__(self, rank: int) -> None:
        self.rank, self.size = rank, 2


@pytest.mark.parametrize("recipe", [{"loss": "bce"}, {"loss": "focal"}, {"loss": "weighted_cross_entropy"}], ids=str)
def test_every_loss_trains(tmp_path: Path, recipe: dict[str, object]) -> None:
    trained = trainees.run(tmp_path, recipe=trainees.settled(**recipe, epochs=3, batch_norm="train"))
    losses = [epoch.train_loss for epoch in trained.epochs]
    assert losses[-1] < losses[0]
    assert all(math.isfinite(loss) for loss in losses if loss is not None)


def test_half_precision_computes_in_half_precision(tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()

    class Watched(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner(images)
            seen.add(logits.dtype)
            return logits

    trainees.run(tmp_path, student=Watched(trainees.network()), recipe=trainees.settled(precision="bf16", epochs=1))
    assert torch.bfloat16 in seen
