"""Takes the ledger and a look at Redis. Gives the page that Prometheus reads.

Knows nothing of HTTP. What is counted is read from sums, never from the rows that were counted; what waits is read as
seldom as reading it is dear.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from db import counters, errors, jobs, live_checks, registry, runs, session, unfinished, windows, workers
from worker import measures, sizing
from worker.measures import Measure
from worker.meter import BOUND, COLUMN, SUM, Key, bound, key

log = logging.getLogger(__name__)

#: Counts the messages that wait in each queue; raises OSError where Redis is away.
Look = Callable[[], Mapping[str, int]]
#: Time from one read of the ledger to the next, by what a read takes: a twentieth of one core at most.
READS_APART = 20
#: A sample: which measure, its labels' values in order, and its value.
Sample = tuple[Measure, tuple[str, ...], float]


@dataclass(slots=True, kw_only=True)
class Exposition:
    """Reads when it is asked, unless the last read took so long that the next is not due yet."""

    sessions: sessionmaker[Session]
    look: Look
    #: Items that may be unfinished; 0 sets no limit.
    max_waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: Sequence[Metric] = ()
    _rests_until_s: float = 0.0

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Give the page and its content type, in the format that the asker accepts."""
        encode, content_type = choose_encoder(accept)
        registry_of_one = CollectorRegistry()
        registry_of_one.register(_Known(self.metrics()))
        return encode(registry_of_one), content_type

    def metrics(self) -> Sequence[Metric]:
        """Give all that can be told now."""
        with self._lock:
            if time.monotonic() >= self._rests_until_s:
                self._read()
            return self._known

    def _read(self) -> None:
        started_s = time.monotonic()
        try:
            with session.reading(self.sessions) as reading:
                known, counted = registry.models(reading), counters.counts(reading)
                samples = list(_samples(reading, known))
        except (errors.LedgerError, SQLAlchemyError) as away:
            log.warning("nothing but this is told of the ledger: %s", str(away).splitlines()[0])
            self._known = [*_gauges([(measures.LEDGER_UP, (), 0.0), *self._queues()])]
            return
        took_s = time.monotonic() - started_s
        samples += [(measures.LEDGER_UP, (), 1.0), (measures.LEDGER_READ, (), took_s), *self._queues()]
        if self.max_waiting:
            samples.append((measures.UNFINISHED_LIMIT, (), float(self.max_waiting)))
        self._known = [*_gauges(samples), *_sums(counted, known)]
        self._rests_until_s = time.monotonic() + READS_APART * took_s

    def _queues(self) -> list[Sample]:
        try:
            waiting = self.look()
        except OSError as away:
            log.warning("no message is counted: %s", away)
            return [(measures.BROKER_UP, (), 0.0)]
        lengths: list[Sample] = [(measures.QUEUE_MESSAGES, (queue,), float(num)) for queue, num in waiting.items()]
        return [(measures.BROKER_UP, (), 1.0), *lengths]


class _Known(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _samples(reading: Session, known: Sequence[str]) -> Iterator[Sample]:
    alive = workers.list_alive(reading, within_s=sizing.ALIVE_S)
    now_s = session.clock(reading)
    yield from _workers(alive, now_s)
    waiting = jobs.waiting_items(reading)
    yield from _waiting(waiting, alive, known)
    yield measures.UNFINISHED, (), float(unfinished.by_caller(reading).total())
    for model in known:
        yield from _model(reading, model, now_s)
    watched = Counter(check.model for check in live_checks.watching(reading))
    yield from ((measures.WATCHED, (model,), float(watched[model])) for model in known)


def _workers(alive: Sequence[workers.Alive], now_s: float) -> Iterator[Sample]:
    for (role, state), num in Counter((one.role, one.state) for one in alive).items():
        yield measures.WORKERS, (role, state), float(num)
    for one in alive:
        yield measures.WORKER_INFO, (one.name, one.role, one.host, one.device, one.state), 1.0
        yield measures.HEARTBEAT_AGE, (one.name,), max(0.0, now_s - one.heartbeat_at_s)
        yield from ((measures.WARM, (one.name, version), 1.0) for version in one.warm)
        yield from ((measures.PACE, (one.name, model), pace) for model, pace in (one.images_per_s or {}).items())
        if one.role == "classify":
            yield measures.WORKER_TROUBLE, (one.name,), float(one.message is not None)
        yield from _memory(one)


def _memory(one: workers.Alive) -> Iterator[Sample]:
    about = {
        "resident_bytes": (measures.RESIDENT, (one.name,)),
        "device_held_bytes": (measures.DEVICE_RESERVED, (one.name, one.device)),
        "device_used_bytes": (measures.DEVICE_USED, (one.name, one.device)),
        "device_total_bytes": (measures.DEVICE_TOTAL, (one.name, one.device)),
    }
    readings = one.readings or {}
    yield from ((*about[name], float(readings[name])) for name in about if name in readings)


def _waiting(waiting: Sequence[jobs.Backlog], alive: Sequence[workers.Alive], known: Sequence[str]) -> Iterator[Sample]:
    for model in sorted({*known, *(one.model for one in waiting)}):
        serving = [one for one in alive if one.takes_work and model in one.models]
        pace = sum((one.images_per_s or {}).get(model, 0.0) for one in serving)
        yield measures.SERVING_WORKERS, (model,), float(len(serving))
        num_ahead = 0
        for priority in ("interactive", "bulk"):
            here = [one for one in waiting if (one.model, one.priority) == (model, priority)]
            num_items = sum(one.num_items for one in here)
            num_ahead += num_items
            yield measures.WAITING_ITEMS, (model, priority), float(num_items)
            yield measures.WAITING_SHARDS, (model, priority), float(sum(one.num_shards for one in here))
            yield measures.OLDEST_WAITING, (model, priority), max((one.oldest_s for one in here), default=0.0)
            if pace or not num_ahead:
                yield measures.BACKLOG, (model, priority), num_ahead / pace if pace else 0.0


def _model(reading: Session, model: str, now_s: float) -> Iterator[Sample]:
    serving = registry.serving(reading, model)
    if serving is not None:
        yield measures.SERVING, (model, serving.version.name, serving.version.arch), 1.0
        yield measures.SERVING_EPOCH, (model,), float(serving.epoch)
        for window in windows.recent(reading, model, limit=1, version_id=serving.version.id):
            yield measures.DRIFT_P, (model, serving.version.name), window.min_p
            yield measures.DRIFT_ALARM, (model, serving.version.name), float(window.is_alarm)
    active = runs.active(reading, model)
    if active is not None:
        yield measures.RUN_ACTIVE, (model, str(active.id), active.state, active.step or ""), 1.0
        yield measures.RUN_AGE, (model,), now_s - active.created_at_s
        yield measures.RUN_PROGRESS, (model,), _progress(active)
    ended = runs.last_ended(reading, model)
    if ended is not None and ended.finished_at_s is not None:
        yield measures.RUN_ENDED, (model, ended.state, ended.verdict or ""), ended.finished_at_s


def _progress(run: runs.Run) -> float:
    told = run.progress or {}
    epoch, of = told.get("epoch"), told.get("of")
    return min(1.0, epoch / of) if isinstance(epoch, int) and isinstance(of, int) and of else 0.0


def _gauges(samples: Iterable[Sample]) -> Iterator[Metric]:
    by_measure: dict[Measure, Metric] = {}
    for measure, labels, value in samples:
        metric = by_measure.setdefault(measure, Metric(measure.name, measure.about + ".", "gauge"))
        metric.add_sample(measure.name, dict(zip(measure.labels, labels, strict=True)), value)
    return iter(by_measure.values())


def _sums(counted: Sequence[counters.Count], known: Sequence[str]) -> Iterator[Metric]:
    """Give counters and histograms; what another release counted under labels of its own is passed over."""
    by_name: dict[str, dict[Key, float]] = {}
    for one in counted:
        by_name.setdefault(one.name, {})[one.name, tuple(one.labels.items())] = one.value
    for measure in measures.ALL:
        if measure.kind == "counter":
            yield _counter(measure, _zeros(measure, known) | by_name.get(measure.name, {}))
        elif measure.kind == "histogram":
            yield _histogram(measure, by_name.get(measure.name + COLUMN, {}), by_name.get(measure.name + SUM, {}))


def _zeros(measure: Measure, known: Sequence[str]) -> dict[Key, float]:
    """Give the sums that are told before anything was counted, for each model where they have one."""
    ends = [(value,) for value in measure.from_start] if measure.from_start else [()]
    if measure.labels[:1] == ("model",):
        ends = [(model, *end) for model in known for end in ends]
    return {key(measure, *end): 0.0 for end in ends if len(end) == len(measure.labels)}


def _counter(measure: Measure, sums: Mapping[Key, float]) -> Metric:
    metric = Metric(measure.name.removesuffix("_total"), measure.about + ".", "counter")
    for (_, labels), value in sums.items():
        if tuple(name for name, _ in labels) == measure.labels:
            metric.add_sample(measure.name, dict(labels), value)
    return metric


def _histogram(measure: Measure, columns: Mapping[Key, float], sums: Mapping[Key, float]) -> Metric:
    metric = Metric(measure.name, measure.about + ".", "histogram")
    for (_, labels), total in sums.items():
        if tuple(name for name, _ in labels) != measure.labels:
            continue
        num = 0.0
        for highest in (*measure.bounds, math.inf):
            spelled = bound(measure, highest)
            num += columns.get((measure.name + COLUMN, (*labels, (BOUND, spelled))), 0.0)
            metric.add_sample(measure.name + COLUMN, {**dict(labels), BOUND: spelled}, num)
        metric.add_sample(measure.name + "_count", dict(labels), num)
        metric.add_sample(measure.name + SUM, dict(labels), total)
    return metric
