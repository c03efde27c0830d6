"""Takes the shard a bell named. Gives recorded outcomes: claim, fetch, decode, batch, forward, record.

Knows nothing of Celery or Redis. One sitting serves one version, so no batch mixes versions.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from db import bells, leases, outcomes, registry, session
from db import errors as db_errors
from db.outcomes import Outcome
from db.shards import Item
from pipeline import decoders, failpoints, images, references
from pipeline import errors as pipeline_errors
from pipeline.serving import batching, lanes
from pipeline.serving.classifier import Classifier, Prediction
from worker import claiming, endings, lines, metering, recall, trails
from worker.messages import BULK
from worker.recall import UNKNOWN, Content
from worker.sittings import Station, Tally

log = logging.getLogger(__name__)

#: Seconds between attempts to record while the ledger is away; then the leases run out and others redo the work.
RECORD_RETRIES_S = (0.2, 1.0, 3.0, 6.0, 10.0)
#: Seconds after which a shard whose version would not load may be claimed again, by a worker that perhaps can.
LOAD_RETRY_S = 5.0
#: Items from which a sitting tells a pace.
PACE_ITEMS = 64
#: Seconds beyond its time in which a sitting may finish what it has begun to decode.
DRAIN_S = 30.0
#: Seconds between two looks for interactive work while a sitting is busy.
LOOK_S = 0.1
#: Batches decoded or being decoded ahead of those that are being classified.
BATCHES_AHEAD = 2
#: Batches that wait for a lane, so that none stands still while outcomes are recorded.
BATCHES_WAITING = 2


@dataclass(slots=True, kw_only=True)
class _Sheet:
    """The outcomes of one claimed shard, until it is whole."""

    claim: leases.Claim
    done: list[outcomes.Outcome] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return len(self.done) == len(self.claim.items)


_Tag = tuple[_Sheet, Item]
_Batch = batching.Batch[_Tag, Content]


@dataclass(frozen=True, slots=True)
class _Predicted:
    """What a lane made of one batch."""

    predictions: Sequence[Prediction]
    began_s: float
    forward_s: float


Written = TypeVar("Written")


def sit(station: Station, shard_id: int) -> Tally:
    """Classify the shard, and go on with others that wait for the same version until none does or time is up.

    Where somebody else has the shard, or it is done, the next of its kind is taken, if one waits. What is unfinished
    when time is up, when the worker is being stopped, or when an error ends the sitting, is given back, and keeps the
    outcomes it has.
    """
    started_s = time.monotonic()
    tally = Tally()
    give_up_s = started_s + station.sitting_s
    failpoints.reach("before_claim")
    claims, version = claiming.claim(station, shard_id, give_up_s)
    if version is not None:
        lines.found(job=claims[0].job_id, shard=claims[0].shard_id, version=version.name)
        tally.claim_s = time.monotonic() - started_s
        sitting = _Sitting(station, tally, version, give_up_s=give_up_s)
        in_order = False
        try:
            sitting.open(claims, started_s)
            failpoints.reach("after_claim")
            sitting.serve(claims)
            in_order = True
        finally:
            sitting.give_back(forgive=in_order)
            sitting.count()
            if sitting.trail:
                sitting.trail.close(tally)
        if tally.is_cut_short and not tally.left:
            tally.left += claiming.next_bell(station, shard_id)
    tally.total_s = time.monotonic() - started_s
    if version is not None:
        _note_pace(station, version.model, tally)
    return tally


def _note_pace(station: Station, model: str, tally: Tally) -> None:
    """Mix a sitting's pace into what was known; one that was over at once says little."""
    if tally.num_items >= PACE_ITEMS:
        pace = tally.num_items / tally.total_s
        station.paces[model] = (station.paces.get(model, pace) + pace) / 2


class _Sitting:
    """One run through the flow; `sheets` holds what is claimed and not yet recorded."""

    def __init__(self, station: Station, tally: Tally, version: registry.Version, *, give_up_s: float) -> None:
        self.station = station
        self.tally = tally
        self.version = version
        self.give_up_s = give_up_s
        self.sheets: dict[int, _Sheet] = {}
        self.spent = batching.StageSeconds()
        self.looks_at_s = time.monotonic() + LOOK_S
        self.began_s = time.monotonic()
        self.meter = metering.SittingMeter(meter=station.meter, model=version.model)
        self.trail = trails.Trail(station.tracer, version.name, station.owner) if station.tracer else None

    def open(self, claims: Sequence[leases.Claim], began_s: float) -> None:
        """Hold what was claimed: from now on each lease is extended, and ended or given back."""
        for claim in claims:
            self.station.held[claim.shard_id] = claim.fence
            self.sheets[claim.shard_id] = _Sheet(claim=claim)
            self.tally.waits.append((claim.priority, claim.waited_s))
        if self.trail:
            self.trail.claimed(claims, began_s)

    def count(self) -> None:
        """Tell the meter what is new."""
        self.tally.fetch_s, self.tally.decode_s = self.spent.fetch, self.spent.decode
        self.meter.tell(self.tally, total_s=time.monotonic() - self.began_s)

    def serve(self, claims: Sequence[leases.Claim]) -> None:
        version = self.version
        try:
            classifier = self.station.warm.get(version)
        except pipeline_errors.PipelineError as broken:
            for claim in claims:
                self._refuse(claim, version, broken)
            return
        self.tally.version = version.name
        batches = self._batches(self._items(claims, version), classifier)
        ahead = self.station.num_lanes + BATCHES_WAITING
        predict: Callable[[_Batch], _Predicted] = partial(_predict, classifier)
        for batch, predicted in lanes.in_order(batches, predict, pool=self.station.lanes, ahead=ahead):
            self._note(batch, predicted, version.id)
            failpoints.reach("after_infer")
            self._record([sheet for sheet in self.sheets.values() if sheet.is_whole])
            if time.monotonic() >= self.give_up_s + DRAIN_S:
                break
            if time.monotonic() >= self.looks_at_s and self._is_in_the_way():
                self._let_pass(classifier)

    def _is_in_the_way(self) -> bool:
        """Whether bulk is in hand; what cost an attempt before has no company, or neighbours would pay for the next."""
        claims = [sheet.claim for sheet in self.sheets.values()]
        return any(claim.priority == BULK for claim in claims) and all(claim.attempts == 1 for claim in claims)

    def _let_pass(self, classifier: Classifier) -> None:
        """Serve small interactive work of this version at once, and end soon if another version's has waited."""
        claims, is_called_away = self._look()
        tagged = [((self.sheets[claim.shard_id], item), item.reference) for claim in claims for item in claim.items]
        # Past what is in the lanes already: each batch of it may take as long as all of this.
        for batch in self._batches(tagged, classifier):
            self._note(batch, _predict(classifier, batch), self.version.id)
        self._record([sheet for sheet in self.sheets.values() if sheet.is_whole])
        if is_called_away:
            self.give_up_s = min(self.give_up_s, time.monotonic())
        self.looks_at_s = time.monotonic() + LOOK_S

    def _look(self) -> tuple[list[leases.Claim], bool]:
        started_s = time.monotonic()
        try:
            claims, is_called_away = claiming.claim_urgent(self.station, self.version)
        except (db_errors.LedgerUnreachable, OperationalError) as away:
            # What is in hand is worth more than a look: whoever records it waits until the ledger is back.
            log.warning("no look for interactive work: %s", str(away).splitlines()[0])
            return [], False
        self.open(claims, started_s)
        self.tally.claim_s += time.monotonic() - started_s
        return claims, is_called_away

    def _batches(self, items: Iterable[tuple[_Tag, str] | None], classifier: Classifier) -> Iterator[_Batch]:
        station = self.station
        return batching.batches(
            items,
            read=partial(references.fetch, roots=station.roots, max_bytes=station.limits.max_bytes),
            shape=partial(_shape, station, classifier, self.version.id),
            batch_size=station.batch_size,
            pool=station.pool,
            lookahead=BATCHES_AHEAD * station.batch_size,
            spent=self.spent,
            per_host=station.per_host,
        )

    def give_back(self, *, forgive: bool) -> None:
        """Return what was claimed and is not done, so that it need not wait for its lease to run out."""
        sheets = list(self.sheets.values())
        # Before anything can fail: the heartbeat would extend for ever what stays held.
        for sheet in sheets:
            self._close(sheet)
        try:
            for sheet in sheets:
                self._return(sheet, forgive=forgive)
        except (db_errors.LedgerError, SQLAlchemyError) as away:
            # The others are not tried: each might wait for a connection as long as this one did.
            log.warning("not all shards were given back, their leases will run out: %s", str(away).splitlines()[0])

    def _return(self, sheet: _Sheet, *, forgive: bool) -> None:
        with session.transaction(self.station.sessions) as transaction:
            still_ours = leases.finish_part(transaction, sheet.claim, sheet.done)
            if forgive or sheet.claim.attempts < self.station.max_attempts:
                leases.release(transaction, sheet.claim, delay_s=0.0, forgive=forgive)
            else:
                # Left to the sweep, which halves it: an item that fails every batch must not come round for ever.
                leases.extend(transaction, [(sheet.claim.shard_id, sheet.claim.fence)], lease_s=0.0)
        if self.trail:
            self.trail.recorded([sheet.claim.shard_id], time.monotonic(), error="given back")
        if still_ours and sheet.done:
            self._count(sheet)
        if still_ours and not sheet.is_whole:
            self.tally.left.append(_bell(sheet))

    def _items(self, claims: Sequence[leases.Claim], version: registry.Version) -> Iterator[tuple[_Tag, str] | None]:
        """Give the items of the first claims, then of others; claimed only as far as the decoders reach ahead.

        Where the last look found that no more waited, what is in hand is on its way before the next look.
        """
        first = claims[0]
        num_given = 0
        while claims:
            for claim in claims:
                sheet = self.sheets[claim.shard_id]
                for item in claim.items:
                    # A batch at least, so that whoever sits gets on.
                    if num_given >= self.station.batch_size and self._is_over():
                        self.tally.is_cut_short = True
                        return
                    num_given += 1
                    # A shard whose lease the heartbeat found lost (a cancelled job, say) is not worth going on with.
                    if claim.shard_id in self.station.held:
                        yield (sheet, item), item.reference
            if sum(len(claim.items) for claim in claims) < self.station.batch_size:
                yield None
            # A shard that cost an attempt before is served alone: should it cost another, no neighbour pays for it.
            goes_on = first.attempts == 1 and not self._is_over()
            claims = self._more(first, version) if goes_on else []
            self.tally.is_cut_short = not goes_on

    def _is_over(self) -> bool:
        return time.monotonic() >= self.give_up_s or self.station.is_stopping()

    def _more(self, first: leases.Claim, version: registry.Version) -> list[leases.Claim]:
        started_s = time.monotonic()
        with session.transaction(self.station.sessions) as transaction:
            claims = claiming.claim_more(self.station, transaction, first, version)
        # All at once, long before the last is begun.
        self.open(claims, started_s)
        self.tally.claim_s += time.monotonic() - started_s
        return claims

    def _note(self, batch: _Batch, predicted: "_Predicted", version_id: int) -> None:
        for (sheet, item), failure in batch.failures:
            sheet.done.append(_failed(item, failure.stage, failure.kind, failure.message, version_id))
        for (sheet, item), content in batch.spared:
            if content.recalled is not None:
                sheet.done.append(_labelled(item, content.recalled, sheet.claim.top_k, version_id, content))
        for (sheet, item), content, prediction in zip(batch.tags, batch.notes, predicted.predictions, strict=True):
            sheet.done.append(_labelled(item, prediction, sheet.claim.top_k, version_id, content))
        if self.trail:
            touched = {sheet.claim.shard_id for sheet, _ in batch.tags}
            self.trail.passed(touched, predicted.began_s, predicted.began_s + predicted.forward_s)
        self.tally.num_recalled += len(batch.spared)
        if batch.tags:
            self.tally.num_batches += 1
            self.tally.fills.append(len(batch.tags) / self.station.batch_size)
        self.tally.forward_s += predicted.forward_s

    def _record(self, sheets: Sequence[_Sheet]) -> None:
        if not sheets:
            return
        started_s = time.monotonic()
        lost = _persistently(partial(self._write, sheets))
        for sheet in sheets:
            if sheet.claim.shard_id not in lost:
                self._count(sheet)
            self._close(sheet)
        if self.trail:
            self.trail.recorded(
                [sheet.claim.shard_id for sheet in sheets if sheet.claim.shard_id not in lost], started_s
            )
            self.trail.recorded(lost, started_s, error="the lease was lost")
        self.tally.num_lost += len(lost)
        self.tally.record_s += time.monotonic() - started_s
        self.count()

    def _count(self, sheet: _Sheet) -> None:
        failures = [outcome.error for outcome in sheet.done if outcome.error is not None]
        self.tally.num_shards += 1
        self.tally.num_items += len(sheet.done)
        self.tally.num_failed += len(failures)
        self.tally.failures.update((one.stage, one.kind) for one in failures)

    def _write(self, sheets: Sequence[_Sheet]) -> frozenset[int]:
        """Record each shard's outcomes together with its end. Gives those whose lease was lost: somebody else's now."""
        recorded: list[tuple[leases.Claim, Sequence[Outcome]]] = [(sheet.claim, sheet.done) for sheet in sheets]
        with session.transaction(self.station.sessions) as transaction:
            finished = leases.finish_all(transaction, recorded)
            failpoints.reach("before_commit")
        failpoints.reach("after_commit_before_ack")
        kept = [(claim, done) for claim, done in recorded if claim.shard_id not in finished.lost]
        self.tally.ended.extend(finished.ended)
        if self.trail:
            self.trail.ended(finished.ended)
        self.station.tell(endings.notices(finished.ended, kept, self.version.name))
        for claim, _ in recorded:
            if claim.shard_id in finished.lost:
                with lines.about(job=claim.job_id, shard=claim.shard_id):
                    log.warning("the lease on shard %s was lost; its outcomes are dropped", claim.shard_id)
        return finished.lost

    def _refuse(self, claim: leases.Claim, version: registry.Version, broken: pipeline_errors.PipelineError) -> None:
        """Give a shard back whose version will not load: no other may answer for it, and it may load elsewhere."""
        with lines.about(job=claim.job_id, shard=claim.shard_id):
            log.warning("waits, for %s cannot be loaded: %s", version.name, broken)
        with session.transaction(self.station.sessions) as transaction:
            leases.release(transaction, claim, delay_s=LOAD_RETRY_S, forgive=True)
        if self.trail:
            self.trail.recorded([claim.shard_id], time.monotonic(), error="its version cannot be loaded")
        self._close(self.sheets[claim.shard_id])

    def _close(self, sheet: _Sheet) -> None:
        del self.sheets[sheet.claim.shard_id]
        self.station.held.pop(sheet.claim.shard_id, None)


def _bell(sheet: _Sheet) -> bells.Bell:
    claim = sheet.claim
    return bells.Bell(
        shard_id=claim.shard_id,
        job_id=claim.job_id,
        model=claim.model,
        version_id=claim.version_id,
        priority=claim.priority,
        num_items=len(claim.items) - len(sheet.done),
    )


def _shape(
    station: Station, classifier: Classifier, version_id: int, tag: _Tag, data: bytes
) -> batching.Shaped[Content]:
    content = UNKNOWN
    if station.recalls:
        top_k = min(tag[0].claim.top_k, classifier.num_answers)
        content = recall.content(station.sessions, version_id, data, top_k=top_k)
        if content.recalled is not None:
            return batching.Shaped(None, content)
    return batching.Shaped(_pixels(classifier, station.decoder, station.limits, data), content)


def _pixels(classifier: Classifier, decoder: decoders.Decoder, limits: images.Limits, data: bytes) -> torch.Tensor:
    preprocess = classifier.preprocess
    return preprocess.quick_pixels(decoder.decode(data, limits, resize_size=preprocess.resize_size))


def _predict(classifier: Classifier, batch: _Batch) -> _Predicted:
    if batch.images_NCHW is None:
        return _Predicted((), 0.0, 0.0)
    started_s = time.monotonic()
    top_k = max(sheet.claim.top_k for sheet, _ in batch.tags)
    predictions = classifier.predict(batch.images_NCHW, top_k=top_k)
    return _Predicted(predictions, started_s, time.monotonic() - started_s)


def _persistently(write: Callable[[], Written]) -> Written:
    """Write, and try again for a while if the ledger is away: nothing has been acknowledged yet."""
    for pause_s in RECORD_RETRIES_S:
        try:
            return write()
        except (db_errors.LedgerUnreachable, OperationalError) as away:
            log.warning("the ledger is away, recording again in %.1f s: %s", pause_s, str(away).splitlines()[0])
            time.sleep(pause_s)
    return write()


def _labelled(item: Item, prediction: Prediction, top_k: int, version_id: int, content: Content) -> outcomes.Outcome:
    return outcomes.Outcome(
        position=item.position,
        key=item.key,
        reference=item.reference,
        label=prediction.label,
        score=prediction.score,
        top_k=prediction.top_k[:top_k],
        version_id=version_id,
        error=None,
        content_sha256=content.sha256,
    )


def _failed(item: Item, stage: str, kind: str, message: str, version_id: int) -> outcomes.Outcome:
    return outcomes.Outcome(
        position=item.position,
        key=item.key,
        reference=item.reference,
        label=None,
        score=None,
        top_k=(),
        version_id=version_id,
        error=outcomes.ItemFailure(stage=stage, kind=kind, message=message),
    )
