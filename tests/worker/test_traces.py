"""From submit to outcome in one trace, as a real collector receives it; nothing of it where traces are off."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import registry
from tests import collector
from tests.collector import Collector
from tests.worker import builders
from worker import envelopes, intake, messages, traces, tracing
from worker.settings import Settings, SettingsInvalid

Sessions = sessionmaker[Session]
STAGES = ("claim", "fetch and decode", "forward", "record")


@pytest.fixture
def collected() -> Iterator[Collector]:
    with collector.listening() as opened:
        yield opened


def opened(collected: Collector, role: str, **how: object) -> traces.Tracer:
    settings = replace(Settings(traces_endpoint=collected.endpoint), **how)
    tracer = tracing.open_tracer(settings, role)
    assert tracer is not None
    return tracer


@pytest.fixture
def traced(
    sessions: Sessions, photos: Path, pool: Executor, version: registry.Version, collected: Collector
) -> Callable[..., uuid.UUID]:
    """Submit a job as the command line does, have it classified, and give its id; every process has told its spans."""

    def go(num_items: int, *, caller: str | None = None, share: float = 1.0) -> uuid.UUID:
        cli, desk_tracer, worker = (
            opened(collected, role, traces_share=share) for role in ("cli", "intake", "classify")
        )
        desk = builders.desk(sessions, photos, tracer=desk_tracer)
        job_id = str(uuid.uuid4())
        with tracing.submitting(cli, job_id, caller) as traceparent:
            sent = {"traceparent": traceparent} if traceparent else {}
            builders.submit(desk, builders.write_images(photos, num_items), job_id=job_id, **sent)
        station = builders.station(sessions, photos, pool, tracer=worker)
        builders.sit(station, uuid.UUID(job_id))
        for tracer in (cli, desk_tracer, worker):
            tracer.close()
        return uuid.UUID(job_id)

    return go


def test_one_trace_goes_from_submit_to_outcome(traced: Callable, collected: Collector) -> None:
    job_id = traced(6)
    spans = collected.of(job_id.hex)
    assert {name: len(found) for name, found in spans.items()} == {
        "submit": 1, "intake": 1, "job": 1, "classify": 2, **dict.fromkeys(STAGES, 2),
    }  # fmt: skip
    [submit], [taken], [job] = spans["submit"], spans["intake"], spans["job"]
    assert (submit.parent_id, submit.service) == ("", "imagemill-cli")
    assert (taken.parent_id, taken.service) == (submit.span_id, "imagemill-intake")
    assert job.parent_id == submit.span_id
    assert (job.facts["imagemill.state"], job.facts["imagemill.items"]) == ("succeeded", 6)
    for classify in spans["classify"]:
        assert (classify.parent_id, classify.service) == (job.span_id, "imagemill-classify")
        assert classify.facts["imagemill.version"] == "cats:1"
        inside = [span for name in STAGES for span in spans[name] if span.parent_id == classify.span_id]
        assert [span.name for span in inside] == list(STAGES)
        times = [time for span in inside for time in (span.began_ns, span.ended_ns)]
        # The clock of a process is read for each span anew: what is the same moment may differ in the last digits.
        assert all(before <= after + 1000 for before, after in pairwise(times))
        assert times[0] + 1000 >= classify.began_ns
        assert times[-1] <= classify.ended_ns + 1000
    assert submit.began_ns <= taken.began_ns < taken.ended_ns <= submit.ended_ns
    assert {classify.facts["imagemill.shard"] for classify in spans["classify"]} == {1, 2}


def test_a_sitting_is_a_trace_of_its_own_linked_with_each_shard(traced: Callable, collected: Collector) -> None:
    spans = collected.of(traced(6).hex)
    [sitting] = [span for span in collected.spans if span.name == "sitting"]
    assert sitting.facts["imagemill.items"] == 6
    assert set(sitting.links) == {(span.trace_id, span.span_id) for span in spans["classify"]}
    assert {link for span in spans["classify"] for link in span.links} == {(sitting.trace_id, sitting.span_id)}


def test_a_callers_trace_is_joined_and_its_wish_to_keep_nothing_heeded(traced: Callable, collected: Collector) -> None:
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traced(2, caller=caller, share=1e-9)
    spans = collected.of("0af7651916cd43dd8448eb211c80319c")
    assert spans["submit"][0].parent_id == "b7ad6b7169203331"
    assert set(spans) == {"submit", "intake", "job", "classify", *STAGES}
    collected.spans.clear()
    traced(2, caller=caller[:-1] + "0")
    assert collected.spans == []


def test_a_share_of_traces_is_kept_whole(traced: Callable, collected: Collector) -> None:
    jobs = [uuid.uuid4() for _ in range(2000)]
    kept = [traces.of_job(job_id, None).is_kept(0.25) for job_id in jobs]
    assert 0.2 < sum(kept) / len(kept) < 0.3
    traced(2, share=1e-9)
    assert collected.spans == []


def test_a_job_without_a_traced_caller_is_the_root_of_its_trace(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, collected: Collector
) -> None:
    worker = opened(collected, "classify")
    job_id = job([*builders.write_images(photos, 1), f"file://{photos}/missing.png"])
    builders.sit(builders.station(sessions, photos, pool, tracer=worker), job_id)
    worker.close()
    spans = collected.of(job_id.hex)
    assert spans["job"][0].parent_id == ""
    assert spans["classify"][0].parent_id == spans["job"][0].span_id
    assert spans["job"][0].facts["imagemill.failed"] == 1


def test_no_span_names_an_image(traced: Callable, collected: Collector, photos: Path) -> None:
    traced(3)
    told = repr(collected.spans)
    assert "png" not in told
    assert str(photos) not in told


def test_a_refusal_is_told_as_an_error(sessions: Sessions, tmp_path: Path, collected: Collector) -> None:
    tracer = opened(collected, "intake")
    desk = builders.desk(sessions, tmp_path, tracer=tracer)
    intake.submit(desk, builders.wire(model="unheard-of"))
    tracer.close()
    assert [(span.name, span.error) for span in collected.spans] == [("intake", "unknown_model")]


def test_a_collector_that_is_away_keeps_nobody_waiting(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, collected: Collector
) -> None:
    tracer = tracing.open_tracer(Settings(traces_endpoint="http://127.0.0.1:9"), "classify")
    job_id = job(builders.write_images(photos, 4))
    tally = builders.sit(builders.station(sessions, photos, pool, tracer=tracer), job_id)
    assert tally.total_s < 30
    assert builders.state_of(sessions, job_id) == "succeeded"


@pytest.mark.parametrize(
    "header",
    ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "nonsense", 7, None, "00-" + "0" * 32 + "-1-01"],
    ids=str,
)
def test_a_producers_header_is_taken_where_it_is_one(header: object) -> None:
    fields = envelopes.with_trace(builders.wire(), header)
    assert messages.Submission.parse(fields).traceparent == (header if str(header).endswith("331-01") else None)


def test_a_field_that_is_no_traceparent_is_refused() -> None:
    with pytest.raises(messages.MessageInvalid, match="traceparent"):
        messages.Submission.parse(builders.wire(traceparent="nonsense"))


def test_off_costs_no_import() -> None:
    code = (
        "import sys; from worker import intake, serving, station, runtime, tracing; from worker.tasks import classify\n"
        "from worker.settings import Settings; assert tracing.open_tracer(Settings(), 'classify') is None\n"
        # redis-py loads the SDK's metrics by itself wherever the extra is installed; what we load is not among it.
        "ours = ('worker.otlp', 'opentelemetry.exporter', 'opentelemetry.sdk.trace', 'google.protobuf')\n"
        "print(*[name for name in sys.modules if name.startswith(ours)])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "worker.otlp", raising=False)
    with pytest.raises(SettingsInvalid, match="extra `traces`"):
        tracing.open_tracer(Settings(traces_endpoint="http://localhost:4318"), "cli")
