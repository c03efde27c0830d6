"""Takes a network that ends in a fitted head, labelled pictures, and a settled recipe.

Gives the network after the epoch that was best on the validation pictures, with the history that led there. Whoever
starts it again after a crash goes on after the last whole epoch, on the CPU to the same bits.
Knows nothing of labels, queues, files of images, or of who wants the result.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import TrainingDiverged
from pipeline.learning import epochs, losses, optimizers, states, steps, streams, worlds
from pipeline.learning.epochs import Epoch
from pipeline.learning.layers import Layers
from pipeline.learning.recipes import Settled
from pipeline.learning.steps import Stepper
from pipeline.learning.streams import Pictures
from pipeline.learning.students import Student
from pipeline.learning.validation import Validation
from pipeline.learning.worlds import World
from pipeline.preprocess import Preprocess

__all__ = ["Epoch", "Pictures", "Trained", "finetune"]

#: steps between looks at the loss: each look waits for the device
LOOK_EVERY = 20
#: what chance is drawn for; each has a stream of its own, so that none depends on how much another drew
ORDER, PICTURE, MIX, DROPOUT = range(4)

Ended = Literal["finished", "early", "memorised"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What a run gives."""

    #: as it was after the best epoch, in evaluation mode, nothing frozen; the average where that was better
    network: nn.Module
    #: the network as it came, measured before any training
    start: Epoch
    epochs: tuple[Epoch, ...]
    #: number of the epoch that `network` is from; 0 where it is the start: nothing was better, or it memorised
    best: int
    #: "early": nothing better for as long as the recipe is patient; "memorised": take the head alone
    ended: Ended
    #: prefixes of the names that were not trained
    frozen: tuple[str, ...]
    #: of their tensors, after training
    frozen_sha256: str
    #: what a reader of the report should know
    notes: tuple[str, ...]


def finetune(
    network: nn.Module,
    layers: Layers,
    *,
    train: Pictures,
    train_targets: Sequence[int],
    val: Pictures,
    val_targets: Sequence[int],
    num_classes: int,
    preprocess: Preprocess,
    settled: Settled,
    seed: int,
    device: torch.device,
    folder: Path,
    keep_going: Callable[[], None],
    on_epoch: Callable[[Epoch], None],
    threads: Executor,
    world: World | None = None,
    micro_batch: int | None = None,
) -> Trained:
    """Train the head, and what the strategy says of the backbone, from the weights that are in `network`.

    `network` itself is left as it is. `keep_going` is called before every batch and may raise to cancel, or sleep.
    `on_epoch` is called after each epoch's state is in `folder`, so never twice for one epoch. Raise TrainingDiverged,
    RecipeInvalid (the optimizer), OSError (no room for the state), torch.OutOfMemoryError (not even one image fits).
    """
    world = world or worlds.Alone()
    student = Student(network, layers, settled, device)
    stepper = Stepper(
        student.network,
        optimizers.build(student.network, layers, settled),
        losses.build(settled, train_targets, num_classes, device),
        settled=settled,
        device=device,
        world=world,
        micro_batch=micro_batch or steps.share(settled, world),
    )
    validation = Validation(
        val,
        val_targets,
        num_classes=num_classes,
        batch_size=settled.batch_size,
        preprocess=preprocess,
        device=device,
        dtype=stepper.dtype,
        world=world,
        threads=threads,
        keep_going=keep_going,
    )
    run = _Run(
        student=student,
        stepper=stepper,
        validation=validation,
        pictures=train,
        targets=torch.tensor(list(train_targets)),
        num_classes=num_classes,
        preprocess=preprocess,
        settled=settled,
        seed=seed % 2**63,
        device=device,
        world=world,
        threads=threads,
        keep_going=keep_going,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return run.to_the_end(folder, on_epoch)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """The parts of a run; what changes is in student and stepper, and in the history that is handed on."""

    student: Student
    stepper: Stepper
    validation: Validation
    pictures: Pictures
    #: int64 [N]
    targets: Tensor
    num_classes: int
    preprocess: Preprocess
    settled: Settled
    seed: int
    device: torch.device
    world: World
    threads: Executor
    keep_going: Callable[[], None]

    # ------------------------------------------------------------ the run

    def to_the_end(self, folder: Path, on_epoch: Callable[[Epoch], None]) -> Trained:
        fingerprint = self._fingerprint()
        history, best = self._resumed(folder, fingerprint) or ([self._start()], {})
        ended = self._ending(history)
        while ended is None and len(history) <= self.settled.epochs:
            history.append(self._epoch(len(history)))
            if epochs.best(history, self.settled.metric) == history[-1].number:
                best = self.student.copied(is_average=history[-1].is_average)
            if self.world.rank == 0:
                self._save(folder, fingerprint, history, best)
                on_epoch(history[-1])
            ended = self._ending(history)
        return self._trained(history, best, ended or "finished")

    def _ending(self, history: Sequence[Epoch]) -> epochs.Ending | None:
        schedule, num_val = self._schedule(), len(self.validation.targets)
        num_warmup = -(-schedule.num_warmup * self.settled.epochs // schedule.num_steps)
        return epochs.ending(history, self.settled, num_val=num_val, num_warmup_epochs=num_warmup)

    def _trained(self, history: Sequence[Epoch], best: dict[str, Tensor], ended: Ended) -> Trained:
        number = 0 if ended == "memorised" else epochs.best(history, self.settled.metric)
        return Trained(
            network=self.student.with_tensors(best if number else {}),
            start=history[0],
            epochs=tuple(history[1:]),
            best=number,
            ended=ended,
            frozen=self.student.frozen,
            frozen_sha256=self.student.frozen_sha256(),
            notes=tuple(self.stepper.notes),
        )

    # ------------------------------------------------------------ one epoch

    def _epoch(self, number: int) -> Epoch:
        began_s = time.perf_counter()
        torch.manual_seed(int(self._rng(number, DROPOUT, self.world.rank).integers(2**63)))
        chunks = streams.cut(self._rng(number, ORDER).permutation(len(self.targets)), self.settled.batch_size)
        self.student.network.train()
        loss, num_right = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for row, (chunk, images) in enumerate(zip(chunks, self._batches(number, chunks), strict=True)):
            stepped = self._step(number, row, chunk, images)
            loss, num_right = loss + stepped.loss, num_right + stepped.num_right
            if row % LOOK_EVERY == 0:
                self._check(float(loss), number)
        seen = self.world.total(torch.stack([loss, num_right])).tolist()
        self._check(seen[0], number)
        return self._measured(number, began_s, seen[0] / len(self.targets), seen[1] / len(self.targets))

    def _step(self, number: int, row: int, chunk: Sequence[int], images: Tensor) -> steps.Stepped:
        whole, num = self._wanted(chunk), worlds.num_own(len(chunk), self.world)
        targets = self._wanted(worlds.own(chunk, self.world))
        inputs = self.preprocess.normalize(images.to(self.device, non_blocking=True))
        if self.settled.mixup and num:
            rng = self._rng(number, MIX, row, self.world.rank)
            inputs[:num], targets[:num] = steps.mix(inputs[:num], targets[:num], self.settled.mixup, rng)
        weight = self.stepper.loss.weight(whole)
        scale = self._schedule().scale((number - 1) * self._num_steps() + row)
        stepped = self.stepper.step(inputs, targets, weight=weight, num=num, scale=scale)
        if self.student.average is not None:
            self.student.average.update()
        return stepped

    def _wanted(self, rows: Sequence[int]) -> Tensor:
        return losses.one_hot(self.targets[rows], self.num_classes).to(self.device)

    def _batches(self, number: int, chunks: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        made = streams.batches(
            [worlds.own(chunk, self.world) for chunk in chunks],
            lambda index: self.pictures.train(index, self._rng(number, PICTURE, index)),
            size=self.preprocess.crop_size,
            threads=self.threads,
            is_pinned=self.device.type == "cuda",
        )
        return streams.watched(made, self.keep_going)

    def _check(self, loss: float, number: int) -> None:
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"The loss became {loss} in epoch {number}; lower the learning rate, which is "
                f"{self.settled.learning_rate:g}, or train in fp32."
            )

    def _num_steps(self) -> int:
        return max(1, -(-len(self.targets) // self.settled.batch_size))

    def _schedule(self) -> optimizers.Schedule:
        return optimizers.schedule(self.settled, self._num_steps() * self.settled.epochs)

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])

    # ------------------------------------------------------------ validation

    def _start(self) -> Epoch:
        return self._measured(0, time.perf_counter(), None, None)

    def _measured(self, number: int, began_s: float, loss: float | None, accuracy: float | None) -> Epoch:
        trained_s = time.perf_counter() - began_s
        metrics, is_average = self.validation.measure(self.student.network), False
        if self.student.average is not None and number:
            average = self.validation.measure(self.student.average.network)
            is_average = epochs.better(average, metrics, self.settled.metric)
            metrics = average if is_average else metrics
        self._check(metrics.nll, number)
        return Epoch(
            number=number,
            train_loss=loss,
            train_accuracy=accuracy,
            val_nll=metrics.nll,
            val_accuracy=metrics.accuracy,
            val_balanced_accuracy=metrics.balanced_accuracy,
            val_macro_f1=metrics.macro_f1,
            learning_rate=self.stepper.learning_rate(),
            seconds=time.perf_counter() - began_s,
            images_per_s=len(self.targets) / trained_s if number else 0.0,
            batch_size=self.stepper.micro_batch,
            is_average=is_average,
        )

    # ------------------------------------------------------------ state

    def _fingerprint(self) -> str:
        facts = {
            # However many processes begin a run, any number may go on with it.
            "settled": {**self.settled.as_dict(), "num_processes": 1},
            "seed": self.seed,
            "train": self.targets.tolist(),
            "val": self.validation.targets.tolist(),
            "preprocess": self.preprocess.digest(),
            "shapes": self.student.shapes(),
            "frozen": self.student.frozen_sha256(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _save(self, folder: Path, fingerprint: str, history: Sequence[Epoch], best: dict[str, Tensor]) -> None:
        number = epochs.best(history, self.settled.metric)
        if number == history[-1].number:
            states.save(states.best_file(folder, number), best)
        state = {
            "fingerprint": fingerprint,
            "history": [epoch.as_dict() for epoch in history],
            "student": self.student.state(),
            "stepper": self.stepper.state(),
        }
        states.save(states.state_file(folder), state)
        states.keep_best(folder, number)

    def _resumed(self, folder: Path, fingerprint: str) -> tuple[list[Epoch], dict[str, Tensor]] | None:
        state = states.load(states.state_file(folder))
        if state is None or state.get("fingerprint") != fingerprint:
            return None
        history = [Epoch(**fields) for fields in state["history"]]
        number = epochs.best(history, self.settled.metric)
        best = states.load(states.best_file(folder, number)) if number else {}
        if best is None:
            return None
        self.student.load(state["student"])
        self.stepper.load(state["stepper"])
        return history, best
