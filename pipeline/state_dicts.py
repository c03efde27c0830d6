"""Takes a file of weights, and the weights a network expects.

Gives the expected names filled from the file, and a report of how they matched.
Knows nothing of architectures, classes or cards.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointBroken, WeightsDoNotFit

#: keys under which training scripts put the weights, beside optimiser state and epoch
WRAPPERS = ("state_dict", "model_state_dict", "model")
#: prefixes that wrappers (DataParallel, Lightning, composite networks) put before every name
PREFIXES = ("module.", "model.", "backbone.", "net.")
#: BatchNorm's step counter: not used in evaluation, absent from old files
COUNTER = "num_batches_tracked"
#: what torch.load raises for files that are not what they seem
LOAD_ERRORS = (
    struct.error,
    RuntimeError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    EOFError,
    OSError,
    Warning,
)

MappedBy = Literal["names", "prefix", "structure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A tensor whose name fits and whose shape does not."""

    name: str
    #: shape in the network
    expected: tuple[int, ...]
    #: shape in the file
    given: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchReport:
    """How the tensors of a file matched those of a network."""

    #: by equal names, by names without a prefix, or by order, shape and role
    mapped_by: MappedBy
    #: tensors whose name and shape fit
    matched: int
    #: names that the network has and the file lacks
    missing: tuple[str, ...]
    #: names that the file has and the network lacks
    unexpected: tuple[str, ...]
    #: tensors of another shape
    mismatched: tuple[Mismatch, ...]

    @property
    def fits(self) -> bool:
        """Whether every tensor has its counterpart."""
        return not (self.missing or self.unexpected or self.mismatched)

    def summary(self) -> str:
        """Say in one or two sentences what fits, what does not, and what to check."""
        if self.fits:
            return f"All {self.matched} tensors fit, mapped by {self.mapped_by}."
        facts = [
            _some("missing", self.missing),
            _some("unexpected", self.unexpected),
            _some("of another shape", [_shapes(mismatch) for mismatch in self.mismatched]),
        ]
        other_head = self.mismatched and not self.missing and not self.unexpected
        hint = "the number of classes" if other_head else "the architecture: this looks like another one"
        return f"The weights do not fit: {self.matched} match; {'; '.join(filter(None, facts))}. Check {hint}."


def read(file: Path) -> dict[str, Tensor]:
    """Read a .safetensors file or a torch pickle without running its code; raise CheckpointBroken."""
    if not file.is_file():
        raise CheckpointBroken(f"There is no file of weights at {file}.")
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    tensors = _unwrapped(content)
    if not tensors:
        raise CheckpointBroken(f"{file.name} holds no weights; save the network's state_dict.")
    return tensors


def match(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], MatchReport]:
    """Give `given` under the expected names: by name, else without a prefix, else by structure.

    Every tensor is compared by name and shape. The tensors are complete only if the report fits.
    """
    attempts = [_by_names(expected, given, "names")]
    attempts += [_by_names(expected, renamed, "prefix") for renamed in _without_prefixes(given)]
    attempts += _by_structure(expected, given)
    fitting = (attempt for attempt in attempts if attempt[1].fits)
    # Nothing fits: the most similar attempt explains the most.
    return next(fitting, max(attempts, key=lambda attempt: attempt[1].matched))


def load(network: nn.Module, given: Mapping[str, Tensor]) -> MatchReport:
    """Load the tensors into the network, all or nothing; raise WeightsDoNotFit."""
    tensors, report = match(network.state_dict(), given)
    if not report.fits:
        raise WeightsDoNotFit(report)
    network.load_state_dict(tensors)
    return report


def digest(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...] = ("",)) -> str:
    """Give the sha256 of names, types, shapes and bytes of the tensors whose names start with one of `prefixes`."""
    total = hashlib.sha256()
    for name in sorted(name for name in tensors if name.startswith(prefixes)):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        # Through uint8: numpy knows no bfloat16.
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


# ---------------------------------------------------------------- reading


def _read_safetensors(file: Path) -> object:
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointBroken(f"{file.name} is not a readable safetensors file: {error}.") from error


def _read_pickle(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        raise CheckpointBroken(
            f"{file.name} is damaged or holds more than weights (a pickle can run code, so it was not "
            "executed); save the network's state_dict, best as .safetensors."
        ) from error
    except LOAD_ERRORS as error:
        raise CheckpointBroken(f"{file.name} is damaged or not a file of weights.") from error


def _unwrapped(content: object) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointBroken("The file holds no mapping from names to tensors; save the network's state_dict.")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointBroken(f"The entry {name!r} is not a tensor; save the network's state_dict alone.")
    return {str(name): value for name, value in content.items()}


# ---------------------------------------------------------------- matching

Attempt = tuple[dict[str, Tensor], MatchReport]


def _by_names(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], mapped_by: MappedBy) -> Attempt:
    shared = [name for name in expected if name in given]
    tensors = {name: given[name] for name in shared if given[name].shape == expected[name].shape}
    counters = {name: expected[name] for name in expected if name not in given and name.endswith(COUNTER)}
    report = MatchReport(
        mapped_by=mapped_by,
        matched=len(tensors),
        missing=tuple(name for name in expected if name not in given and name not in counters),
        unexpected=tuple(name for name in given if name not in expected),
        mismatched=tuple(
            Mismatch(name=name, expected=tuple(expected[name].shape), given=tuple(given[name].shape))
            for name in shared
            if name not in tensors
        ),
    )
    return tensors | counters, report


def _by_structure(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[Attempt]:
    """Pair the tensors in order, if shape and role (the last part of the name) agree for every pair."""
    ours, theirs = list(expected), list(given)
    if len(ours) != len(theirs):  # perhaps for want of step counters alone
        ours, theirs = _uncounted(ours), _uncounted(theirs)
    pairs = list(zip(ours, theirs, strict=False))
    agree = all(_role(a) == _role(b) and expected[a].shape == given[b].shape for a, b in pairs)
    if len(ours) != len(theirs) or not agree:
        return []
    return [_by_names(expected, {a: given[b] for a, b in pairs}, "structure")]


def _without_prefixes(given: Mapping[str, Tensor]) -> Iterable[dict[str, Tensor]]:
    for prefix in (_common_prefix(list(given)), *PREFIXES):
        if prefix and any(name.startswith(prefix) for name in given):
            yield {name.removeprefix(prefix): tensor for name, tensor in given.items()}


def _common_prefix(names: list[str]) -> str:
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return "".join(f"{part}." for part in shared)


def _uncounted(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(COUNTER)]


def _role(name: str) -> str:
    return name.rpartition(".")[2]


# ---------------------------------------------------------------- sentences


def _some(fact: str, names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} {fact} ({', '.join(names[:3])}{more})" if names else ""


def _shapes(mismatch: Mismatch) -> str:
    return f"{mismatch.name}: {list(mismatch.given)} in the file, {list(mismatch.expected)} in the network"
