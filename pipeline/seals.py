"""Takes the reference of a checkpoint and the sha256 that the ledger keeps of it.

Gives its card's bytes and its files' hashes, once each has proved to be what was written.
Knows nothing of tensors, so that whoever only asks whether a checkpoint is whole loads no torch.
"""

from __future__ import annotations

import hashlib
import json

from pipeline import stores
from pipeline.errors import CheckpointBroken

#: the files of a checkpoint
WEIGHTS, PARITY, CARD = "weights.safetensors", "parity.safetensors", "card.json"
#: file -> the field of the card that holds its hash
SEALED = {WEIGHTS: "weights_sha256", PARITY: "parity_sha256"}


def read_card(reference: str, sha256: str | None) -> bytes:
    """Read card.json; raise CheckpointBroken if it is missing or changed, StoreUnreachable."""
    data = stores.read_file(reference, CARD)
    if data is None:
        raise CheckpointBroken(f"There is no checkpoint at {reference}: it has no {CARD}.")
    if sha256 is not None:
        compare(CARD, reference, hashlib.sha256(data).hexdigest(), sha256)
    return data


def compare(name: str, reference: str, given: str, sealed: str) -> None:
    """Raise CheckpointBroken unless a file's hash is the one that seals it."""
    if given != sealed:
        raise CheckpointBroken(f"{name} of {reference} was changed: its sha256 is {given}, not {sealed}.")


def check(reference: str, sha256: str) -> None:
    """Hash every file of a checkpoint, a piece at a time; raise CheckpointBroken or StoreUnreachable."""
    card = json.loads(read_card(reference, sha256))
    for name, sealed_by in SEALED.items():
        given = stores.hash_file(reference, name)
        if given is None:
            raise CheckpointBroken(f"{name} of {reference} is missing.")
        compare(name, reference, given, card[sealed_by])
