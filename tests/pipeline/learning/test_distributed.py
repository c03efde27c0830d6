"""Two processes train to what one process trains to, and end as cleanly."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline import backbones, checkpoints, digits, images
from pipeline.errors import PipelineError, TrainingDiverged
from pipeline.learning import distributed, finetune, jobs, layers, ranks
from pipeline.learning.epochs import Epoch
from tests import builders
from tests.pipeline.learning import trainees

NUM_TRAIN, NUM_VAL, SIZE = 42, 15, 32


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> tuple[distributed.Item, ...]:
    """Files of coloured noise."""
    folder = tmp_path_factory.mktemp("pictures")
    pictures = trainees.Coloured(NUM_TRAIN + NUM_VAL, 3, seed=1)
    found = []
    for number, (pixels, target) in enumerate(zip(pictures.images, pictures.targets, strict=True)):
        file = folder / f"{number}.png"
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((SIZE, SIZE)).save(file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        found.append(distributed.Item(sha256=digest, reference=str(file), target=target))
    return tuple(found)


def job_of(items: tuple[distributed.Item, ...], store: Path, **recipe: object) -> distributed.Job:
    arch = str(recipe.pop("arch", digits.ARCH))
    # The same weights whichever tests ran before: from some, one rounding turns a ReLU over and the ways part.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = backbones.build(arch, num_classes=3)
    saved = checkpoints.save(network, builders.tiny_draft(arch=arch), store.as_uri(), now_s=0.0)
    given = {"batch_size": 16, "num_processes": 2, "augmentation": "crop_flip", **recipe}
    return distributed.Job(
        checkpoint=saved.reference,
        sha256=saved.sha256,
        train=items[:NUM_TRAIN],
        val=items[NUM_TRAIN:],
        settled=trainees.settled(num_train=NUM_TRAIN, **given),
        seed=3,
        roots=(str(Path(items[0].reference).parent),),
        limits=images.Limits(),
        max_cache_bytes=10**8,
        device="cpu",
        num_threads=1,
    )


def launch(
    job: distributed.Job,
    folder: Path,
    *,
    keep_going: Callable[[], None] = trainees.no_objection,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> finetune.Trained:
    return distributed.launch(job, folder=folder, keep_going=keep_going, on_epoch=on_epoch)


def alone(job: distributed.Job, folder: Path, monkeypatch: pytest.MonkeyPatch) -> finetune.Trained:
    """Train the same job in this process."""
    loaded = checkpoints.load(job.checkpoint, sha256=job.sha256)
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda: 1)  # there is no group to ask
    monkeypatch.setattr(ranks.dist, "get_rank", lambda: 0)
    train, val = ranks._pictures(job, folder, loaded.card)
    with ThreadPoolExecutor(1) as threads:
        return finetune.finetune(
            loaded.network,
            layers.layers(loaded.network, SIZE),
            train=train,
            train_targets=[item.target for item in job.train],
            val=val,
            val_targets=[item.target for item in job.val],
            num_classes=3,
            preprocess=loaded.card.preprocess,
            settled=job.settled,
            seed=job.seed,
            device=torch.device("cpu"),
            folder=folder,
            keep_going=trainees.no_objection,
            on_epoch=lambda _: None,
            threads=threads,
        )


def assert_alike(ours: finetune.Trained, theirs: finetune.Trained) -> None:
    for name, tensor in ours.network.state_dict().items():
        assert torch.allclose(tensor, theirs.network.state_dict()[name], atol=2e-4), name
    assert (ours.best, ours.ended, ours.frozen_sha256) == (theirs.best, theirs.ended, theirs.frozen_sha256)
    for one, other in zip(ours.epochs, theirs.epochs, strict=True):
        assert one.val_nll == pytest.approx(other.val_nll, abs=1e-3)
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-3)
        assert one.train_accuracy == pytest.approx(other.train_accuracy, abs=0.05)


def test_two_processes_give_what_one_gives(
    tmp_path: Path, items: tuple[distributed.Item, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 42 images in batches of 9 and 8, 15 to validate on: where the number is odd, one process has one image more.
    job = job_of(items, tmp_path, batch_norm="train", loss="weighted_cross_entropy", batch_size=9)
    told: list[int] = []
    ours = launch(job, tmp_path / "two", on_epoch=lambda epoch: told.append(epoch.number))
    assert told == [1, 2, 3, 4]
    assert_alike(ours, alone(job, tmp_path / "one", monkeypatch))


def test_a_job_that_ran_out_of_memory_and_was_cancelled_goes_on_to_the_same_end(
    tmp_path: Path, items: tuple[distributed.Item, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(items, tmp_path, epochs=30, strategy="last_stage", arch="tests.pipeline.learning.trainees:cramped")
    told: list[Epoch] = []

    def cancel() -> None:
        if told:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        launch(job, tmp_path / "two", keep_going=cancel, on_epoch=told.append)
    assert gone(tmp_path / "two" / jobs.JOB)
    num_told = len(told)
    assert num_told < 30
    ours = launch(job, tmp_path / "two", on_epoch=told.append)
    assert told[num_told].number > told[num_told - 1].number
    assert told[-1].number == 30
    assert {epoch.batch_size for epoch in ours.epochs} == {4}
    assert ours.notes == ("out of memory: batch halved to 4, accumulating 2",)
    assert_alike(ours, alone(job, tmp_path / "one", monkeypatch))


def gone(argument: Path) -> bool:
    """Wait for every process that was started with this argument to end."""
    give_up_s = time.monotonic() + 20
    while time.monotonic() < give_up_s:
        if not any(names(file, argument) for file in Path("/proc").glob("[0-9]*/cmdline")):
            return True
        time.sleep(0.1)
    return False


def names(command: Path, argument: Path) -> bool:
    try:
        return str(argument).encode() in command.read_bytes()
    except OSError:  # it ended in between
        return False


def test_a_process_stands_still_while_its_permit_is_old(tmp_path: Path) -> None:
    permit = tmp_path / jobs.PERMIT
    permit.touch()
    ranks._wait_for_permit(permit)
    os.utime(permit, (0, 0))
    waiting = threading.Thread(target=ranks._wait_for_permit, args=(permit,))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    permit.touch()
    waiting.join(10)
    assert not waiting.is_alive()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("TrainingDiverged", TrainingDiverged), ("OutOfMemoryError", torch.OutOfMemoryError), ("OSError", OSError)],
)
def test_the_error_of_a_process_becomes_the_launchers(tmp_path: Path, kind: str, expected: type[Exception]) -> None:
    (tmp_path / jobs.FAILED.format(rank=1)).write_text(json.dumps({"kind": kind, "message": "It happened."}))
    failure = distributed._failure(tmp_path, 1)
    assert type(failure) is expected
    assert str(failure) == "It happened."


def test_processes_that_end_without_a_word_leave_their_log(tmp_path: Path) -> None:
    (tmp_path / jobs.LOG).write_text("first\nKilled\n")
    failure = distributed._failure(tmp_path, -9)
    assert type(failure) is PipelineError
    assert "exit code -9" in str(failure)
    assert str(failure).endswith("Killed")


def test_a_job_survives_json(tmp_path: Path, items: tuple[distributed.Item, ...]) -> None:
    job = job_of(items, tmp_path)
    assert distributed.Job.from_dict(json.loads(json.dumps(job.as_dict()))) == job
