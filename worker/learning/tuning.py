"""Takes a fitted head and the images themselves. Gives the backbone trained from it: the last stage, or all of it.

Knows nothing of which strategy wins. One process trains here, or several by torchrun if the recipe says so.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline import checkpoints
from pipeline.learning import distributed, evaluation, finetune, heads
from pipeline.learning.epochs import Epoch
from pipeline.learning.finetune import Trained
from pipeline.learning.heads import Head
from pipeline.learning.layers import Strategy
from pipeline.learning.pixels import PixelCache
from pipeline.learning.recipes import Recipe, Settled
from pipeline.learning.views import Views
from pipeline.preprocess import Preprocess
from worker.learning.material import Material, Part, features_of, source
from worker.learning.trials import Trial, settled_for, trial_of
from worker.learning.watch import Pace
from worker.learning.workshop import Workshop

log = logging.getLogger(__name__)

#: Told of each epoch, with the strategy it belongs to and the number of epochs there are to be.
OnEpoch = Callable[[Strategy, Epoch, int], None]

#: largest class over smallest, from which the classifier of a trained backbone is balanced anew
UNBALANCED = 1.5


class Pictures:
    """The images that train and those that choose: decoded once, when somebody looks, and kept as far as they fit."""

    def __init__(self, workshop: Workshop, material: Material) -> None:
        self._workshop = workshop
        self._material = material

    @cached_property
    def train(self) -> PixelCache:
        """Images that train; nobody looks here where several processes read them themselves."""
        return _read(self._workshop, self._material.start.preprocess, self._material.train)

    @cached_property
    def val(self) -> PixelCache:
        """Images that choose."""
        return _read(self._workshop, self._material.start.preprocess, self._material.val)


def tune(
    workshop: Workshop,
    pace: Pace,
    material: Material,
    recipe: Recipe,
    head: Head,
    strategy: Strategy,
    *,
    pictures: Pictures,
    folder: Path,
    on_epoch: OnEpoch,
) -> Trial:
    """Train from the solved head (LP-FT, Kumar et al. 2022); what a crash leaves in `folder` is gone on from."""
    began_s = time.perf_counter()
    start, settled = material.start, settled_for(material, recipe, strategy)
    network = start.network(head.num_classes)
    heads.apply(network, start.layers, head)
    train = _train_alone if settled.num_processes == 1 else _train_together
    done = train(
        workshop,
        pace,
        material,
        network,
        settled,
        pictures,
        folder / strategy,
        lambda epoch: on_epoch(strategy, epoch, settled.epochs),
    )
    log.info("%s of %s trained, %s epochs, %s", strategy, pace.model, len(done.epochs), done.ended)
    val_logits = _forward(workshop, start.preprocess, done.network, _views(pictures.val, start.preprocess, settled))
    trial = trial_of(material, settled, done.network, val_logits, began_s=began_s, frozen=done.frozen)
    trial = replace(
        trial,
        epochs=(done.start, *done.epochs),
        best=done.best,
        notes=done.notes,
        is_eligible=done.ended != "memorised",
    )
    return _balanced(workshop, pace, material, trial, began_s) if recipe.imbalance == "balance" else trial


def _train_alone(
    workshop: Workshop,
    pace: Pace,
    material: Material,
    network: nn.Module,
    settled: Settled,
    pictures: Pictures,
    folder: Path,
    on_epoch: Callable[[Epoch], None],
) -> Trained:
    start = material.start
    train, val = (_views(cache, start.preprocess, settled) for cache in (pictures.train, pictures.val))
    return finetune.finetune(
        network,
        start.layers,
        train=train,
        train_targets=material.train.targets.tolist(),
        val=val,
        val_targets=material.val.targets.tolist(),
        num_classes=len(material.snapshot.classes),
        preprocess=start.preprocess,
        settled=settled,
        seed=pace.seed,
        device=workshop.device,
        folder=folder,
        keep_going=pace.keep_going,
        on_epoch=on_epoch,
        threads=workshop.pool,
    )


def _train_together(
    workshop: Workshop,
    pace: Pace,
    material: Material,
    network: nn.Module,
    settled: Settled,
    _: Pictures,
    folder: Path,
    on_epoch: Callable[[Epoch], None],
) -> Trained:
    """Train by several processes of this machine, which read the images themselves."""
    card = material.start.loaded.card
    draft = checkpoints.Draft(
        arch=card.arch,
        arch_options=card.arch_options,
        classes=material.snapshot.classes,
        preprocess=card.preprocess,
    )
    # Apart from what training resumes from: the same content lies there once, however often it is begun.
    saved = checkpoints.save(network, draft, (folder.parent / "start").as_uri(), now_s=time.time())
    job = distributed.Job(
        checkpoint=saved.reference,
        sha256=saved.sha256,
        train=_items(material.train),
        val=_items(material.val),
        settled=settled,
        seed=pace.seed,
        roots=workshop.roots.prefixes,
        limits=workshop.limits,
        max_cache_bytes=workshop.pixel_cache_bytes,
        device=workshop.device.type,
        num_threads=max(1, torch.get_num_threads() // settled.num_processes),
    )
    return distributed.launch(job, folder=folder, keep_going=pace.keep_going, on_epoch=on_epoch)


def _items(part: Part) -> tuple[distributed.Item, ...]:
    return tuple(
        distributed.Item(sha256=example.sha256, reference=example.reference, target=int(target))
        for example, target in zip(part.examples, part.targets, strict=True)
    )


def _balanced(workshop: Workshop, pace: Pace, material: Material, trial: Trial, began_s: float) -> Trial:
    """Refit the classifier with classes of equal weight on the trained backbone, and keep it if it is no worse."""
    counts = torch.bincount(material.train.targets)
    if float(counts.max() / counts[counts > 0].min()) < UNBALANCED:
        return trial
    start, num_classes = material.start, len(material.snapshot.classes)
    values, kept, _ = features_of(
        workshop,
        pace,
        trial.network,
        start.layers,
        start.preprocess,
        (*material.train.examples, *material.val.examples),
    )
    if len(kept) < len(material.train) + len(material.val):
        return trial
    train_values, val_values = values[: len(material.train)], values[len(material.train) :]
    targets = material.train.targets
    l2 = heads.choose_l2(train_values, targets, num_classes, seed=pace.seed, removed=material.masked).l2
    head = heads.balance(train_values, targets, num_classes, l2=l2, removed=material.masked)
    logits = heads.logits(head, val_values)
    metrics = evaluation.measure(logits, material.val.targets, material.snapshot.classes, masked=material.masked)
    if metrics.balanced_accuracy < trial.metrics.balanced_accuracy:
        return trial
    heads.apply(trial.network, start.layers, head)
    note = (
        f"The classifier was balanced anew: {trial.metrics.balanced_accuracy:.3f} -> {metrics.balanced_accuracy:.3f}."
    )
    return replace(
        trial, val_logits=logits, metrics=metrics, seconds=time.perf_counter() - began_s, notes=(*trial.notes, note)
    )


def _read(workshop: Workshop, preprocess: Preprocess, part: Part) -> PixelCache:
    cache = PixelCache(
        [source(example) for example in part.examples],
        fetch=workshop.fetch,
        limits=workshop.limits,
        preprocess=preprocess,
        max_bytes=workshop.pixel_cache_bytes,
        on_lost=lambda lost: log.warning("an image was lost during training: %s", lost.kind),
    )
    cache.fill(workshop.pool)
    return cache


def _views(cache: PixelCache, preprocess: Preprocess, settled: Settled) -> Views:
    return Views(cache, tuple(range(len(cache))), preprocess, settled)


def _forward(workshop: Workshop, preprocess: Preprocess, network: nn.Module, pictures: Views) -> Tensor:
    def batches() -> Iterator[Tensor]:
        for first in range(0, len(pictures), workshop.batch_size):
            rows = range(first, min(first + workshop.batch_size, len(pictures)))
            yield torch.stack([pictures.eval(row) for row in rows])

    return evaluation.forward(network, preprocess, batches(), workshop.device)
