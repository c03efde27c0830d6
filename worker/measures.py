"""Takes nothing. Gives what can be measured, each with its name, kind, labels and meaning: all that Prometheus is told.

Knows nothing of how it is measured. Counts and histograms are added to by whoever does the work; gauges are read from
the ledger, or from Redis, when somebody asks.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

#: Seconds that bound the columns of a histogram: from a lone image to a bulk job over night.
SHORT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0)
#: Shares of a batch that images took.
SHARES = (0.125, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Measure:
    """One name of Prometheus's."""

    name: str
    kind: Kind
    #: one sentence, without its full stop
    about: str
    labels: tuple[str, ...] = ()
    #: upper bounds of a histogram's columns
    bounds: tuple[float, ...] = ()
    #: a counter's values of its last label that are told at 0 before anything was counted: Prometheus overlooks the
    #: first rise of what was not there
    from_start: tuple[str, ...] = ()


# ------------------------------------------------------------------ counted by classify workers
ITEMS = Measure(
    "imagemill_items_total", "counter",
    "Items that got their outcome from a worker: `succeeded`, `failed`, or `recalled` from an identical image",
    ("model", "outcome"), from_start=("succeeded", "failed"),
)  # fmt: skip
ITEM_FAILURES = Measure(
    "imagemill_item_failures_total", "counter", "Failed items, by where and how they failed", ("model", "stage", "kind")
)
STAGE_SECONDS = Measure(
    "imagemill_stage_seconds_total", "counter",
    "Seconds spent in `claim`, `fetch`, `decode`, `forward` and `record`, summed over a worker's threads",
    ("model", "stage"), from_start=("claim", "fetch", "decode", "forward", "record"),
)  # fmt: skip
SITTING_SECONDS = Measure(
    "imagemill_sitting_seconds_total", "counter",
    "Seconds in which a worker had work in hand: its rate is the number of workers that are busy", ("model",),
)  # fmt: skip
BATCH_FILL = Measure(
    "imagemill_batch_fill_ratio", "histogram", "How full the batches were that went through the network",
    ("model",), SHARES,
)  # fmt: skip
QUEUE_WAIT = Measure(
    "imagemill_queue_wait_seconds", "histogram",
    "Seconds that shards waited until a worker claimed them; one that was given back counts again",
    ("model", "priority"), SHORT_S,
)  # fmt: skip
JOB_SECONDS = Measure(
    "imagemill_job_seconds", "histogram", "Seconds from a job's first part to its last outcome",
    ("model", "priority"), SHORT_S,
)  # fmt: skip
JOBS = Measure(
    "imagemill_jobs_total", "counter", "Jobs whose last item got its outcome", ("model", "state"),
    from_start=("succeeded", "partial", "failed"),
)  # fmt: skip
LEASES_LOST = Measure(
    "imagemill_leases_lost_total", "counter",
    "Shards whose outcomes were dropped because somebody else had them by then", ("model",),
)  # fmt: skip

# ------------------------------------------------------------------ counted by intake, upkeep and whoever serves HTTP
SUBMITTED = Measure(
    "imagemill_items_submitted_total", "counter", "Items acknowledged, those of a repeated submission included",
    ("model", "priority"), from_start=("interactive", "bulk"),
)  # fmt: skip
REFUSED = Measure(
    "imagemill_submissions_refused_total", "counter",
    "Submissions that were refused, by why: `queue_full` and `quota_exceeded` where too much waits", ("kind",),
    from_start=("queue_full", "quota_exceeded", "invalid"),
)  # fmt: skip
REAPED = Measure(
    "imagemill_shards_reaped_total", "counter",
    "Shards whose lease ran out: `returned` to the queue, `split`, or `failed` for good", ("how",),
    from_start=("returned", "split", "failed"),
)  # fmt: skip
EXPIRED = Measure("imagemill_jobs_expired_total", "counter", "Jobs that ended at their deadline")
RUNG_AGAIN = Measure("imagemill_bells_rung_again_total", "counter", "Messages sent anew for shards that still waited")
DECISIONS = Measure(
    "imagemill_trigger_decisions_total", "counter",
    "Looks at whether a model should learn: `fired` or `skipped`", ("model", "decision"),
    from_start=("fired", "skipped"),
)  # fmt: skip

# ------------------------------------------------------------------ read when somebody asks
LEDGER_UP = Measure("imagemill_ledger_up", "gauge", "1 if the ledger answered; without it most of this page is missing")
LEDGER_READ = Measure("imagemill_ledger_read_seconds", "gauge", "Seconds that the ledger took to answer")
BROKER_UP = Measure("imagemill_broker_up", "gauge", "1 if Redis answered")
QUEUE_MESSAGES = Measure("imagemill_queue_messages", "gauge", "Messages that wait in Redis", ("queue",))
WAITING_ITEMS = Measure(
    "imagemill_items_waiting", "gauge", "Items that no worker has claimed yet", ("model", "priority")
)
WAITING_SHARDS = Measure(
    "imagemill_shards_waiting", "gauge", "Shards that no worker has claimed yet", ("model", "priority")
)
OLDEST_WAITING = Measure(
    "imagemill_oldest_waiting_seconds", "gauge", "Seconds that the oldest waiting shard has waited",
    ("model", "priority"),
)  # fmt: skip
BACKLOG = Measure(
    "imagemill_backlog_seconds", "gauge",
    "Seconds until what waits now is done, at the pace of those who serve the model; bulk waits for interactive too. "
    "Missing while something waits and no worker has told its pace",
    ("model", "priority"),
)  # fmt: skip
UNFINISHED = Measure("imagemill_items_unfinished", "gauge", "Items without an outcome, waiting or in hand")
UNFINISHED_LIMIT = Measure("imagemill_items_unfinished_limit", "gauge", "How many may be; missing where there is none")
WORKERS = Measure("imagemill_workers", "gauge", "Workers heard of in the last 30 s", ("role", "state"))
SERVING_WORKERS = Measure("imagemill_serving_workers", "gauge", "Classify workers that serve the model", ("model",))
WORKER_INFO = Measure(
    "imagemill_worker_info", "gauge", "1 for each worker", ("worker", "role", "host", "device", "state")
)
WORKER_TROUBLE = Measure(
    "imagemill_worker_in_trouble", "gauge", "1 if the worker cannot load what serves (`status` says why)", ("worker",)
)
HEARTBEAT_AGE = Measure("imagemill_worker_heartbeat_age_seconds", "gauge", "Seconds since a worker beat", ("worker",))
PACE = Measure(
    "imagemill_worker_images_per_second", "gauge", "The worker's pace of late, while it worked", ("worker", "model")
)
WARM = Measure(
    "imagemill_warm_info", "gauge", "1 for each version that a worker holds in memory", ("worker", "version")
)
RESIDENT = Measure("imagemill_worker_resident_bytes", "gauge", "Memory of the worker's child", ("worker",))
DEVICE_RESERVED = Measure(
    "imagemill_worker_device_memory_bytes", "gauge", "Memory of the GPU that the worker holds", ("worker", "device")
)
DEVICE_USED = Measure(
    "imagemill_device_memory_used_bytes", "gauge", "Memory of the GPU that is taken, by whomever", ("worker", "device")
)
DEVICE_TOTAL = Measure("imagemill_device_memory_bytes", "gauge", "Memory that the GPU has", ("worker", "device"))
SERVING = Measure("imagemill_serving_info", "gauge", "1 for the version that serves", ("model", "version", "arch"))
SERVING_EPOCH = Measure("imagemill_serving_epoch", "gauge", "Promotions and rollbacks so far", ("model",))
RUN_ACTIVE = Measure(
    "imagemill_run_active_info", "gauge", "1 for the run that is queued or under way", ("model", "run", "state", "step")
)
RUN_PROGRESS = Measure("imagemill_run_progress_ratio", "gauge", "Share of its epochs that the run has done", ("model",))
RUN_AGE = Measure("imagemill_run_age_seconds", "gauge", "Seconds since the active run was asked for", ("model",))
RUN_ENDED = Measure(
    "imagemill_last_run_end_timestamp_seconds", "gauge", "When the model's last run ended, in epoch seconds",
    ("model", "state", "verdict"),
)  # fmt: skip
DRIFT_P = Measure(
    "imagemill_drift_min_p", "gauge", "Smallest p of the newest comparison with the test images", ("model", "version")
)
DRIFT_ALARM = Measure("imagemill_drift_alarm", "gauge", "1 if the newest comparison gave alarm", ("model", "version"))
WATCHED = Measure("imagemill_live_checks", "gauge", "Promotions that are being watched", ("model",))

#: All of them, in the order they are told.
ALL: tuple[Measure, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Measure))
