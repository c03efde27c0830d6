"""Takes a network and its draft, or the reference of what was saved before.

Gives a folder that proves itself: weights, a parity fixture, and a card that seals both by sha256.
Knows nothing of versions, of promotion, or of who serves it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline import backbones, seals, state_dicts, stores
from pipeline.cards import Card, Draft
from pipeline.classes import check_classes, read_classes
from pipeline.errors import CheckpointBroken, ClassesInvalid
from pipeline.parity import Parity, parity_gap, parity_images, tolerance
from pipeline.preprocess import Preprocess
from pipeline.seals import CARD, PARITY, WEIGHTS

__all__ = ["CARD", "PARITY", "WEIGHTS", "Card", "Draft", "Loaded", "Parity", "Saved", "forward_of", "load",
           "parity_gap", "read_card", "read_classes", "save", "verify"]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """Where a checkpoint lies, and the hash that seals it."""

    reference: str
    #: of card.json, which holds the hashes of the other files
    sha256: str
    card: Card


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A checkpoint whose hashes and structure were checked."""

    #: in evaluation mode, on the device asked for
    network: nn.Module
    card: Card
    parity: Parity


def save(network: nn.Module, draft: Draft, store: str, *, now_s: float) -> Saved:
    """Write a checkpoint under `store` (a file:// or s3:// URL); the same content is written once.

    Raise ClassesInvalid, CheckpointBroken (the network is not what `draft.arch` builds) or StoreUnreachable.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    check_classes(draft.classes)
    parity = safetensors.torch.save(_record(network, draft))
    _check_structure(_build(draft), tensors)
    _check_frozen(draft, tensors)
    weights = safetensors.torch.save(_unshared(tensors))
    card = Card(
        **{entry.name: getattr(draft, entry.name) for entry in fields(Draft)},
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        parity_sha256=hashlib.sha256(parity).hexdigest(),
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        created_at_s=now_s,
    )
    reference = f"{store.rstrip('/')}/checkpoints/{card.content_digest()[:16]}"
    if stores.read_file(reference, CARD) is None:
        stores.write_folder(reference, {WEIGHTS: weights, PARITY: parity, CARD: card.as_bytes()})
    return _saved(reference)


def load(reference: str, *, sha256: str | None, device: str | torch.device = "cpu") -> Loaded:
    """Read a checkpoint and check its hashes and structure; raise CheckpointBroken or StoreUnreachable.

    `sha256` is what `save` gave; None trusts the card that is there.
    """
    card = read_card(reference, sha256)
    with stores.local_folder(reference, (WEIGHTS, PARITY)) as folder:
        tensors = _read_sealed(folder / WEIGHTS, card.weights_sha256, reference)
        fixture = _read_sealed(folder / PARITY, card.parity_sha256, reference)
    network = _build(card)
    _check_structure(network, tensors)
    _check_frozen(card, tensors)
    network.load_state_dict(tensors)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(card.frozen))
    return Loaded(network=network.eval().to(device), card=card, parity=_parity(fixture, card))


def read_card(reference: str, sha256: str | None) -> Card:
    """Read the card alone; raise CheckpointBroken if missing or changed, StoreUnreachable."""
    return Card.from_bytes(seals.read_card(reference, sha256))


def verify(reference: str, sha256: str | None) -> None:
    """Load on CPU in fp32 and replay the parity fixture; raise CheckpointBroken or StoreUnreachable."""
    loaded = load(reference, sha256=sha256)
    forward = forward_of(loaded.network, loaded.card.preprocess)
    gap = parity_gap(forward, loaded.parity)
    if not gap <= tolerance(torch.device("cpu"), torch.float32):
        raise CheckpointBroken(f"{reference} does not give the logits it gave when saved: off by {gap:.2g} deviations.")


def forward_of(network: nn.Module, preprocess: Preprocess) -> Callable[[Tensor], Tensor]:
    """Give the function from uint8 images [N, 3, S, S] to logits [N, classes], in fp32 without gradients."""

    def forward(images_NCHW: Tensor) -> Tensor:  # noqa: N803
        with torch.inference_mode():
            logits: Tensor = network(preprocess.normalize(images_NCHW))
        return logits

    return forward


# ---------------------------------------------------------------- saving


def _build(draft: Draft) -> nn.Module:
    return backbones.build(draft.arch, num_classes=len(draft.classes), options=draft.arch_options)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory (tied weights); stored twice, they load as well.
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _record(network: nn.Module, draft: Draft) -> dict[str, Tensor]:
    twin = copy.deepcopy(network).cpu().float().eval()
    images = parity_images(draft.preprocess.crop_size)
    logits = forward_of(twin, draft.preprocess)(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        raise CheckpointBroken("The network must give one row of logits per image, and nothing else.")
    if logits.shape[1] != len(draft.classes):
        raise ClassesInvalid(f"The network has {logits.shape[1]} outputs, but {len(draft.classes)} classes are named.")
    if not logits.isfinite().all():
        raise CheckpointBroken("The network gives logits that are not finite; its weights are unusable.")
    return {"images": images, "logits": logits.clone()}


def _saved(reference: str) -> Saved:
    data = stores.read_file(reference, CARD) or b""
    card = Card.from_bytes(data)
    with stores.local_folder(reference, (WEIGHTS, PARITY)) as folder:
        _sealed(folder / WEIGHTS, card.weights_sha256, reference)
        _sealed(folder / PARITY, card.parity_sha256, reference)
    return Saved(reference=reference, sha256=hashlib.sha256(data).hexdigest(), card=card)


# ---------------------------------------------------------------- checking


def _read_sealed(file: Path, sha256: str, reference: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(_sealed(file, sha256, reference))
    except safetensors.SafetensorError as error:
        raise CheckpointBroken(f"{file.name} of {reference} is not a safetensors file: {error}.") from error


def _sealed(file: Path, sha256: str, reference: str) -> bytes:
    """Read a file once and check it: what was hashed is what is loaded, whatever becomes of the file meanwhile."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointBroken(f"{file.name} of {reference} is missing or unreadable: {error.strerror}.") from error
    seals.compare(file.name, reference, hashlib.sha256(data).hexdigest(), sha256)
    return data


def _check_structure(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    _, report = state_dicts.match(network.state_dict(), tensors)
    if not report.fits or report.mapped_by != "names":
        raise CheckpointBroken(f"The weights are not those of the architecture on the card. {report.summary()}")


def _check_frozen(draft: Draft, tensors: dict[str, Tensor]) -> None:
    """Hold the card to its word: what it calls frozen is, to the bit, what training started from."""
    if draft.frozen_sha256 is not None and state_dicts.digest(tensors, draft.frozen) != draft.frozen_sha256:
        raise CheckpointBroken(
            f"{', '.join(draft.frozen[:3])} and what else the card calls frozen is not what training started from."
        )


def _parity(tensors: dict[str, Tensor], card: Card) -> Parity:
    try:
        parity = Parity(images_NCHW=tensors["images"], logits=tensors["logits"])
    except KeyError as error:
        raise CheckpointBroken(f"The parity fixture lacks its {error}.") from error
    size, num = card.preprocess.crop_size, len(parity.images_NCHW) if parity.images_NCHW.ndim else 0
    images, logits = (num, 3, size, size), (num, len(card.classes))
    if not num or (parity.images_NCHW.shape, parity.logits.shape) != (images, logits):
        raise CheckpointBroken("The parity fixture does not hold images and the logits they gave.")
    if (parity.images_NCHW.dtype, parity.logits.dtype) != (torch.uint8, torch.float32):
        raise CheckpointBroken("The parity fixture does not hold images of bytes and logits in fp32.")
    return parity
