"""Takes weights, or a version's name. Gives versions in the registry, and the serving pointer moved.

Knows nothing of Celery: workers see a promotion in the ledger.
"""

import getpass
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker
from torch import Tensor, nn

from db import registry, session
from db.models import Source
from pipeline import backbones, checkpoints, errors, state_dicts
from pipeline.preprocess import Preprocess
from worker import promotions


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What becomes a version, and how."""

    model: str
    arch: str
    arch_options: Mapping[str, object]
    #: A file with a state_dict, or the name of published weights (DEFAULT).
    weights: str
    #: A file with the names of the outputs in order; published weights bring their own.
    classes: Path | None
    #: Fields of `Preprocess` that differ from the architecture's own.
    preprocess: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A version that was made, how its weights matched, and whether it serves."""

    version: registry.Version
    report: state_dicts.MatchReport
    serves: bool


def import_version(sessions: sessionmaker[Session], store: str, wanted: Import, *, promoted: bool) -> Imported:
    """Build the network, fit the weights into it, save the checkpoint and register it.

    A model's first version serves at once, others only if `promoted`. Raises `ArchitectureUnknown`,
    `WeightsDoNotFit`, `WeightsUnreachable`, `ClassesInvalid`, `CheckpointBroken`.
    """
    weights, classes, preprocess = _given(wanted)
    network = backbones.build(wanted.arch, num_classes=len(classes), options=wanted.arch_options)
    report = state_dicts.load(network, weights)
    draft = checkpoints.Draft(
        arch=wanted.arch,
        arch_options=wanted.arch_options,
        classes=classes,
        preprocess=Preprocess.from_dict(preprocess.as_dict() | dict(wanted.preprocess)),
    )
    version = register(sessions, store, wanted.model, network, draft, source="import")
    return Imported(version=version, report=report, serves=_promote_first(sessions, version, promoted=promoted))


def register(
    sessions: sessionmaker[Session],
    store: str,
    model: str,
    network: nn.Module,
    draft: checkpoints.Draft,
    *,
    source: Source,
) -> registry.Version:
    """Save a network as a checkpoint and enter it in the registry as the model's next version."""
    saved = checkpoints.save(network, draft, store, now_s=time.time())
    with session.transaction(sessions) as transaction:
        return registry.register(transaction, new_version(model, saved, source=source))


def new_version(
    model: str, saved: checkpoints.Saved, *, source: Source, parent_id: int | None = None
) -> registry.NewVersion:
    """Describe a saved checkpoint for the registry."""
    card = saved.card
    return registry.NewVersion(
        model=model,
        arch=card.arch,
        num_classes=len(card.classes),
        reference=saved.reference,
        sha256=saved.sha256,
        source=source,
        parent_id=parent_id,
        metrics=dict(card.metrics),
        num_parameters=card.num_parameters,
    )


def promote(sessions: sessionmaker[Session], name: str, *, reason: str, is_forced: bool = False) -> registry.Serving:
    """Let a version serve, in the name of who runs this process. As `promotions.promote`; raises `CheckpointBroken`."""
    return promotions.promote(sessions, name, who=getpass.getuser(), reason=reason, verify=_verify, is_forced=is_forced)


def rollback(sessions: sessionmaker[Session], model: str, *, reason: str) -> registry.Serving:
    """Let the version serve that served before. As `promotions.rollback`; raises `CheckpointBroken`."""
    return promotions.rollback(sessions, model, who=getpass.getuser(), reason=reason, verify=_verify)


def _verify(version: registry.Version) -> None:
    checkpoints.verify(version.reference, version.sha256)


def _promote_first(sessions: sessionmaker[Session], version: registry.Version, *, promoted: bool) -> bool:
    with session.reading(sessions) as reading:
        serving = registry.serving(reading, version.model)
    if serving is not None and not promoted:
        return False
    promote(sessions, version.name, reason="imported" if serving else "the model's first version")
    return True


def _given(wanted: Import) -> tuple[Mapping[str, Tensor], tuple[str, ...], Preprocess]:
    file = Path(wanted.weights).expanduser()
    if _names_published(wanted.weights):
        published = backbones.published(wanted.arch, wanted.weights)
        classes = checkpoints.read_classes(wanted.classes) if wanted.classes else published.classes
        return published.state_dict, classes, published.preprocess
    if wanted.classes is None:
        raise errors.ClassesInvalid("Weights on disk name no classes: give --classes FILE, one name per output.")
    return (
        state_dicts.read(file),
        checkpoints.read_classes(wanted.classes),
        backbones.preprocess_for(wanted.arch, wanted.arch_options),
    )


def _names_published(weights: str) -> bool:
    """Tell a name such as DEFAULT or IMAGENET1K_V1 from a file: a name has neither a folder nor an ending."""
    return not Path(weights).suffix and "/" not in weights and not Path(weights).is_file()
