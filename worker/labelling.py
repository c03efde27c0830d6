"""Takes labelled images by any door. Gives recorded labels, and for each that could not be recorded the reason.

Knows nothing of Celery, networks or training. Threads fetch and decode ahead; one bad image costs no other its label.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from sqlalchemy.orm import Session, sessionmaker

from db import errors as db_errors
from db import labels, registry, session
from pipeline import fingerprints, images, references, stores, urls
from pipeline.errors import ItemError
from worker import inline, playbook, readable
from worker.learning_messages import LabelledImage, LabelsReceipt, RefusedLabel
from worker.messages import MessageInvalid
from worker.settings import Settings

#: Labels recorded in one transaction, while which others of the same model wait.
BATCH = 100
#: Images fetched and decoded ahead of the record; what is kept of each is a few hundred bytes.
AHEAD = 64

#: The file of a checkpoint that names its classes; read as JSON, for what reads it whole needs torch.
CARD = "card.json"

#: What a door gives: a labelled image, or one that it had to refuse itself.
Row = LabelledImage | RefusedLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeller:
    """What labels are recorded with."""

    sessions: sessionmaker[Session]
    roots: references.Roots
    limits: images.Limits
    #: fsspec URL under which images that came inside a message are kept.
    inline_store: str
    #: Bytes of one image inside a message.
    max_inline_bytes: int
    pool: Executor
    #: The file whose `classes` close a model's list of classes; empty leaves every list open.
    playbook: str = ""


def open_labeller(settings: Settings, sessions: sessionmaker[Session]) -> Labeller:
    """Build what labels are recorded with; whoever is done with it shuts its pool down."""
    return Labeller(
        sessions=sessions,
        roots=readable.roots(settings),
        limits=readable.limits(settings),
        inline_store=settings.inline_store,
        max_inline_bytes=settings.max_inline_bytes,
        pool=ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode"),
        playbook=settings.playbook,
    )


def record(
    labeller: Labeller, model: str, rows: Iterable[Row], *, on_recorded: Callable[[int], None] = lambda _: None
) -> LabelsReceipt:
    """Record labels in their order, a batch per transaction; `on_recorded` is told how many rows are done.

    What is refused is in the receipt: an image that cannot be fetched or read, a class that a fixed list lacks.
    Raises `PlaybookInvalid`, and `LedgerError` if the ledger refuses or is away; the batches before are recorded then,
    and may be given again.
    """
    _close_list(labeller, model)
    counts: Counter[str] = Counter()
    refused: list[RefusedLabel] = []
    num_done = 0
    prepared = _ahead(labeller, rows)
    while batch := list(islice(prepared, BATCH)):
        for given in _record(labeller, model, batch):
            if isinstance(given, RefusedLabel):
                refused.append(given)
            else:
                counts[given.status] += 1
                counts["near"] += given.is_new_image and given.is_near_duplicate
        num_done += len(batch)
        on_recorded(num_done)
    return LabelsReceipt(
        model=model,
        num_added=counts["added"],
        num_corrected=counts["corrected"],
        num_unchanged=counts["unchanged"],
        num_near_duplicates=counts["near"],
        refused=tuple(sorted(refused, key=lambda one: one.position)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A label whose image was read."""

    position: int
    label: labels.NewLabel

    def refused(self, reason: db_errors.UnknownClass) -> RefusedLabel:
        new = self.label
        return _refusal(self.position, new.reference, new.label, "unknown_class", str(reason))


def _close_list(labeller: Labeller, model: str) -> None:
    """Hold the model to the classes its playbook lists, if it lists any."""
    names = playbook.read(labeller.playbook, model).classes
    with session.reading(labeller.sessions) as reading:
        known = {one.name for one in labels.classes(reading, model, removed=False)}
        is_closed = labels.is_fixed(reading, model) and known == set(names)
    if names and not is_closed:
        with session.transaction(labeller.sessions) as transaction:
            labels.fix_classes(transaction, model, names)


def _follow_champion(labeller: Labeller, model: str, ready: Sequence["_Ready"]) -> None:
    """Number a model's first classes as the version that serves does, if it knows any of them.

    Its outputs and the labels' numbers must agree for it ever to be compared with what is learned from them.
    """
    with session.reading(labeller.sessions) as reading:
        serving = registry.serving(reading, model)
        if serving is None or labels.classes(reading, model):
            return
    card = stores.read_file(serving.version.reference, CARD)
    names = json.loads(card)["classes"] if card else []
    if not {one.label.label for one in ready}.isdisjoint(names):
        with session.transaction(labeller.sessions) as transaction:
            labels.open_classes(transaction, model, names)


def _record(labeller: Labeller, model: str, batch: list[_Ready | RefusedLabel]) -> list[labels.Added | RefusedLabel]:
    ready = [one for one in batch if isinstance(one, _Ready)]
    _follow_champion(labeller, model, ready)
    return [*(one for one in batch if isinstance(one, RefusedLabel)), *_add(labeller.sessions, model, ready)]


def _add(sessions: sessionmaker[Session], model: str, ready: list[_Ready]) -> list[labels.Added | RefusedLabel]:
    if not ready:
        return []
    try:
        with session.transaction(sessions) as transaction:
            return [*labels.add(transaction, model, [one.label for one in ready])]
    except db_errors.UnknownClass as unknown:
        if len(ready) == 1:
            return [ready[0].refused(unknown)]
    # The ledger takes all of them or none: halve, until those it does not take are alone.
    middle = len(ready) // 2
    return _add(sessions, model, ready[:middle]) + _add(sessions, model, ready[middle:])


def _ahead(labeller: Labeller, rows: Iterable[Row]) -> Iterator[_Ready | RefusedLabel]:
    """Read the images in threads, some ahead, and give them in order."""
    pending: deque[Future[_Ready | RefusedLabel]] = deque()
    try:
        for work in (partial(_prepare, labeller, position, row) for position, row in enumerate(rows)):
            pending.append(labeller.pool.submit(work))
            if len(pending) == AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _prepare(labeller: Labeller, position: int, row: Row) -> _Ready | RefusedLabel:
    if isinstance(row, RefusedLabel):
        return replace(row, position=position)
    try:
        return _Ready(position=position, label=_read(labeller, row))
    except ItemError as wrong:
        return _refusal(position, row.reference, row.label, wrong.kind, wrong.message)
    except MessageInvalid as too_large:
        return _refusal(position, row.reference, row.label, "too_large", str(too_large))
    except MemoryError:
        message = "There was not enough memory for the image."
        return _refusal(position, row.reference, row.label, "out_of_memory", message)


def _read(labeller: Labeller, row: LabelledImage) -> labels.NewLabel:
    reference, data, most = row.reference, row.inline, labeller.max_inline_bytes
    if data is None:
        inline.hold(reference, labeller.inline_store)
        most = labeller.limits.max_bytes
        data = references.fetch(reference, labeller.roots, max_bytes=most)
    fingerprint = fingerprints.fingerprint(data, labeller.limits)
    # Kept once it has proved to be an image. What a URL leads to may be another picture tomorrow, or none, and what was
    # labelled is read again for years.
    if row.inline is not None or urls.is_url(reference):
        reference = inline.keep(data, labeller.inline_store, max_bytes=most)
    return labels.NewLabel(
        sha256=fingerprint.sha256,
        dhash=fingerprint.dhash,
        thumbnail=fingerprint.thumbnail,
        reference=reference,
        label=row.label,
        who=row.who,
        source=row.source,
        group=row.group,
        event_key=row.key,
    )


def _refusal(position: int, reference: str, label: str, kind: str, message: str) -> RefusedLabel:
    return RefusedLabel(position=position, reference=reference, label=label, kind=kind, message=message)
