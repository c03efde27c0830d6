"""Takes a model, and where its unlabelled images are. Gives those a person should label next, and why each.

Knows nothing of who labels them. Images are known by content: one that has a label, by whatever name, is not asked for.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

import numpy as np
import torch
from sqlalchemy.orm import Session
from torch import Tensor

from db import labels, outcomes, registry, session
from pipeline.errors import ItemError
from pipeline.learning import evaluation, heads, suggestions
from pipeline.learning.pixels import Lost, Source
from pipeline.learning.suggestions import FEW_PER_CLASS, Pool, Why
from worker import retraining
from worker.learning import material
from worker.learning.material import Start
from worker.learning.watch import Pace
from worker.learning.workshop import Workshop
from worker.playbook import Playbook

#: unlabelled images that are looked at, at most
MOST_POOLED = 2000
#: images read between two looks into the ledger
CHUNK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants to label."""

    model: str
    #: references to choose among; None takes what the serving version classified last
    references: tuple[str, ...] | None
    num: int
    #: the version whose features compare images, where none serves; None leaves it to the playbook
    base: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggested:
    """An image to label."""

    reference: str
    sha256: str
    why: Why
    #: as `suggestions.Suggestion` has it
    score: float
    #: what the serving version says; None where none does
    predicted: str | None
    #: of that label, 0 to 1
    probability: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was suggested, and out of what."""

    model: str
    #: the version that looked at the images
    version: str
    #: images without a label that were looked at
    num_pool: int
    #: images left out, for they have a label
    num_labelled: int
    #: labelled images of the median class
    num_per_class: float
    #: images that cannot be read
    lost: tuple[Lost, ...]
    #: best first
    suggestions: tuple[Suggested, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """The images of a pool, each content once."""

    sources: tuple[Source, ...]
    num_labelled: int
    lost: tuple[Lost, ...]


def suggest(workshop: Workshop, wish: Wish, known: Playbook) -> Found:
    """Choose what to label next.

    Raises `NothingToStartFrom`, `UnknownVersion`, `CheckpointBroken`, `StoreUnreachable`, `ArchitectureUnknown`.
    """
    with session.reading(workshop.sessions) as reading:
        serving = registry.serving(reading, wish.model)
        champion = serving.version if serving is not None else None
        version = _eye(reading, champion, wish, known)
        counts = [one for one in labels.counts(reading, wish.model) if not one.is_removed]
        names = _recent(reading, champion) if wish.references is None else _shuffled(wish.references, wish.seed)
    looked = _look(workshop, wish.model, names)
    start, pace = material.open_start(workshop, version), Pace(model=wish.model, seed=wish.seed)
    extracted = material.extract(workshop, pace, start.loaded.network, start.layers, start.preprocess, looked.sources)
    sources = [looked.sources[index] for index in extracted.kept]
    # Weights from elsewhere that serve until there are better ones may know other classes altogether.
    speaks = version == champion and (
        not counts or not {one.name for one in counts}.isdisjoint(start.loaded.card.classes)
    )
    probabilities = _probabilities(start, extracted.features) if speaks else None
    num_per_class = float(median(one.num for one in counts)) if counts else 0.0
    is_guided_by_labels = num_per_class < FEW_PER_CLASS or probabilities is None
    chosen = suggestions.suggest(
        Pool(
            references=tuple(reference for _, reference in sources),
            features=extracted.features,
            probabilities=probabilities,
        ),
        _labelled(workshop, pace, start) if is_guided_by_labels else extracted.features[:0],
        num=wish.num,
        num_per_class=num_per_class,
        seed=wish.seed,
    )
    rows = {reference: row for row, (_, reference) in enumerate(sources)}
    return Found(
        model=wish.model,
        version=version.name,
        num_pool=len(sources),
        num_labelled=looked.num_labelled,
        num_per_class=num_per_class,
        lost=(*looked.lost, *extracted.lost),
        suggestions=tuple(
            _suggested(one, sources[rows[one.reference]], start, probabilities, rows[one.reference]) for one in chosen
        ),
    )


def _eye(reading: Session, champion: registry.Version | None, wish: Wish, known: Playbook) -> registry.Version:
    """Choose the version that looks at the images: the champion, unless another is asked for or none serves."""
    if champion is not None and wish.base is None:
        return champion
    return retraining.base_of(reading, wish.model, wish.base or known.base)


def _recent(reading: Session, champion: registry.Version | None) -> list[str]:
    if champion is None:
        return []
    recorded = outcomes.recorded_since(
        reading, champion.model, champion.id, 0.0, MOST_POOLED, is_newest_first=True, errors=False
    )
    return list(dict.fromkeys(one.reference for one in recorded))


def _shuffled(references: Sequence[str], seed: int) -> list[str]:
    """Put them in a random order: of more than are looked at, a fair part is."""
    distinct = list(dict.fromkeys(references))
    return [distinct[index] for index in np.random.default_rng(seed).permutation(len(distinct))]


def _look(workshop: Workshop, model: str, names: Sequence[str]) -> _Looked:
    """Read images until there are enough without a label."""
    waiting, sources, labelled, lost = iter(names), dict[str, str](), set[str](), list[Lost]()
    while len(sources) < MOST_POOLED and (chunk := list(islice(waiting, CHUNK))):
        hashed = list(_hashed(workshop, chunk))
        lost += [one for one in hashed if isinstance(one, Lost)]
        read = [one for one in hashed if not isinstance(one, Lost)]
        with session.reading(workshop.sessions) as reading:
            labelled |= labels.known(reading, model, [sha256 for sha256, _ in read])
        for sha256, reference in read:
            if sha256 not in labelled:
                sources.setdefault(sha256, reference)
    return _Looked(sources=tuple(sources.items())[:MOST_POOLED], num_labelled=len(labelled), lost=tuple(lost))


def _hashed(workshop: Workshop, references: Sequence[str]) -> Iterator[Source | Lost]:
    def hashed(reference: str) -> Source | Lost:
        try:
            return hashlib.sha256(workshop.fetch(reference)).hexdigest(), reference
        except ItemError as gone:
            return Lost(sha256="", reference=reference, kind=gone.kind, reason=gone.message)

    return workshop.pool.map(hashed, references)


def _probabilities(start: Start, values: Tensor) -> Tensor:
    card = start.loaded.card
    logits = heads.logits(heads.of(start.loaded.network, start.layers), values)
    return evaluation.probabilities(evaluation.mask(logits, card.masked_numbers), card.temperature)


def _labelled(workshop: Workshop, pace: Pace, start: Start) -> Tensor:
    with session.reading(workshop.sessions) as reading:
        known = [(one.sha256, one.reference) for one in labels.current(reading, pace.model)]
    return material.extract(workshop, pace, start.loaded.network, start.layers, start.preprocess, known).features


def _suggested(
    one: suggestions.Suggestion, source: Source, start: Start, probabilities: Tensor | None, row: int
) -> Suggested:
    best = None if probabilities is None else torch.max(probabilities[row], dim=0)
    return Suggested(
        reference=one.reference,
        sha256=source[0],
        why=one.why,
        score=one.score,
        predicted=best and start.loaded.card.classes[int(best.indices)],
        probability=best and float(best.values),
    )
