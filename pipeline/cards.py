"""Takes what is known of a network: how to build it, its classes, its preprocessing, its past.

Gives the card of a checkpoint, to and from JSON.
Knows nothing of weights or files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any, NoReturn

from pipeline.errors import CheckpointBroken
from pipeline.preprocess import Preprocess

#: version of the card's layout
FORMAT = 2
#: fields that format 1 did not have
ADDED = ("masked", "abstain_below", "frozen_sha256")
#: fields that say when and where a checkpoint was written, not what it is
INCIDENTAL = ("created_at_s", "parity_sha256")
#: what JSON may hold in each field, but for the preprocessing, which checks itself
KINDS: Mapping[type | UnionType, tuple[str, ...]] = {
    str: ("arch", "weights_sha256", "parity_sha256"),
    str | None: ("snapshot", "parent", "frozen_sha256"),
    int: ("num_parameters",),
    int | float: ("temperature", "created_at_s"),
    int | float | None: ("abstain_below",),
    dict: ("arch_options", "metrics", "preprocess"),
    list | tuple: ("classes", "frozen", "masked"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the caller knows of a network that is to be saved."""

    #: name that `backbones.build` understands
    arch: str
    #: options that `backbones.build` needs beside the name
    arch_options: Mapping[str, object] = field(default_factory=dict)
    #: names of the outputs, in order
    classes: tuple[str, ...]
    preprocess: Preprocess
    #: divides the logits before the softmax, so that scores mean what they say
    temperature: float = 1.0
    #: name -> number, as measured at training
    metrics: Mapping[str, float] = field(default_factory=dict)
    #: digest of the labels it was trained on
    snapshot: str | None = None
    #: version it was trained from
    parent: str | None = None
    #: prefixes of parameter names that were not trained
    frozen: tuple[str, ...] = ()
    #: of the tensors under those prefixes in the version it was trained from: proof that they did not move
    frozen_sha256: str | None = None
    #: classes that were removed: their outputs stay where they are, and never win
    masked: tuple[str, ...] = ()
    #: score below which a prediction is an abstention; None where no threshold keeps the risk that was wanted
    abstain_below: float | None = None

    @property
    def masked_numbers(self) -> tuple[int, ...]:
        """Class numbers of the removed classes."""
        return tuple(self.classes.index(name) for name in self.masked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card(Draft):
    """Everything about a checkpoint but its weights; its sha256 seals the other files through theirs."""

    format: int = FORMAT
    #: of weights.safetensors
    weights_sha256: str
    #: of parity.safetensors
    parity_sha256: str
    num_parameters: int
    #: seconds since the epoch
    created_at_s: float

    def as_dict(self) -> dict[str, object]:
        """Give the fields as JSON values."""
        return {**asdict(self), "preprocess": self.preprocess.as_dict()}

    def as_bytes(self) -> bytes:
        """Give the bytes of card.json."""
        return json.dumps(self.as_dict(), indent=2, sort_keys=True, allow_nan=False).encode()

    def content_digest(self) -> str:
        """Give the sha256 of what the checkpoint is, whenever and wherever it was written."""
        content = {key: value for key, value in self.as_dict().items() if key not in INCIDENTAL}
        return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()

    @classmethod
    def from_dict(cls, given: Mapping[str, object]) -> Card:
        """Read what `as_dict` gave; raise CheckpointBroken for another format, or another set of fields."""
        if given.get("format") not in (1, FORMAT):
            raise CheckpointBroken(f"The card has format {given.get('format')}; this imagemill reads 1 and {FORMAT}.")
        added = ADDED if given["format"] == 1 else ()
        if odd := {entry.name for entry in fields(cls) if entry.name not in added} ^ set(given):
            raise CheckpointBroken(f"The card does not have exactly the fields it should: {', '.join(sorted(odd))}.")
        try:
            card = cls(**{**given, **_typed(given)})  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointBroken(f"The card cannot be read: {error}") from error
        if not (isinstance(card.temperature, int | float) and 0 < card.temperature < math.inf):
            raise CheckpointBroken(f"The card's temperature is {card.temperature}; it must be a positive number.")
        if unknown := set(card.masked) - set(card.classes):
            raise CheckpointBroken(f"The card masks classes it does not have: {', '.join(sorted(unknown))}.")
        if set(card.masked) == set(card.classes):
            raise CheckpointBroken("The card masks every class it has.")
        return card

    @classmethod
    def from_bytes(cls, data: bytes) -> Card:
        """Read card.json; raise CheckpointBroken."""
        try:
            given = json.loads(data, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise CheckpointBroken("The card is not JSON.") from error
        if not isinstance(given, dict):
            raise CheckpointBroken("The card is not a JSON object.")
        return cls.from_dict(given)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number that a card holds.")


def _typed(given: Mapping[str, Any]) -> dict[str, object]:
    """Check the fields' kinds, and turn JSON lists and objects into the values they stand for."""
    held = {**dict.fromkeys(ADDED), "masked": (), **given}
    odd = [name for kind, names in KINDS.items() for name in names if not isinstance(held[name], kind)]
    if odd:
        raise ValueError(f"{', '.join(odd)} must be of their kind: objects, lists, text or numbers.")
    lists = {name: tuple(held[name]) for name in ("classes", "frozen", "masked")}
    if not all(isinstance(entry, str) for names in lists.values() for entry in names):
        raise ValueError("classes, frozen and masked must be lists of names.")
    return {"preprocess": Preprocess.from_dict(given["preprocess"]), **lists}
