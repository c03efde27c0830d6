"""A receipt is a promise: what it names is in the ledger, once, and will be rung for."""

import base64
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import bells, jobs, leases, registry, session, workers
from pipeline import references
from tests.db import builders as rows
from tests.worker import builders
from worker import heartbeat, intake, messages, relay
from worker.messages import Receipt, Refusal

Sessions = sessionmaker[Session]
NINE = [f"s3://photos/{n}.jpg" for n in range(9)]
NOBODY = "11111111-2222-4333-8444-555555555555"


@pytest.fixture(autouse=True)
def _version(version: registry.Version) -> None:
    """Something serves."""


def refusal(reply: object) -> tuple[str, str]:
    assert isinstance(reply, Refusal), reply
    return reply.kind, reply.message


def view(sessions: Sessions, job_id: uuid.UUID) -> jobs.JobView:
    with session.reading(sessions) as reading:
        return jobs.job(reading, job_id)


def test_a_receipt_comes_once_the_ledger_has_the_job(sessions: Sessions, tmp_path: Path) -> None:
    sent = builders.wire(NINE, top_k=3, priority="interactive", idempotency_key="order-7", caller="shop")
    reply = intake.submit(builders.desk(sessions, tmp_path), sent)
    assert reply == Receipt(job_id=sent["job_id"], state="accepted", num_received=9, num_items=9)
    job = view(sessions, uuid.UUID(sent["job_id"]))
    assert (job.model, job.version, job.priority, job.top_k) == ("cats", "cats:1", "interactive", 3)
    assert (job.idempotency_key, job.caller, job.num_items) == ("order-7", "shop", 9)
    assert [shard.num_items for shard in builders.shards(sessions, job.id)] == [4, 4, 1]


def test_bells_ring_once_per_shard_and_after_the_commit(sessions: Sessions, tmp_path: Path) -> None:
    seen = []

    def ring(bell: bells.Bell) -> None:
        # Another session: what it sees is committed.
        seen.append((bell.shard_id, view(sessions, bell.job_id).state, bell.model, bell.priority, bell.num_items))

    job_id = builders.submit(builders.desk(sessions, tmp_path, ring=ring), NINE)
    rung = builders.shards(sessions, job_id)
    assert seen == [(shard.id, "accepted", "cats", "bulk", shard.num_items) for shard in rung]
    assert all(shard.rung_at_s for shard in rung)


def test_bells_ring_when_the_job_is_whole_and_not_before(sessions: Sessions, tmp_path: Path) -> None:
    rung: list[bells.Bell] = []
    desk = builders.desk(sessions, tmp_path, ring=rung.append)
    header = {"job_id": NOBODY, "num_items": 9}
    for first, num, num_received, num_rung in ((6, 3, 3, 0), (0, 2, 5, 0), (2, 4, 9, 3)):
        part = builders.wire(NINE[first : first + num], first_position=first, **header)
        reply = intake.submit(desk, part)
        assert (reply.num_received, len(rung)) == (num_received, num_rung)
    shards = builders.shards(sessions, uuid.UUID(NOBODY))
    recorded = sorted(reference for shard in shards for _, _, reference in shard.items)
    assert recorded == NINE


@pytest.mark.parametrize("key", [None, "order-7"], ids=["by id", "by id and key"])
def test_a_job_sent_again_is_the_same_job(sessions: Sessions, tmp_path: Path, key: str | None) -> None:
    rung: list[bells.Bell] = []
    desk = builders.desk(sessions, tmp_path, ring=rung.append)
    sent = builders.wire(NINE, idempotency_key=key)
    assert intake.submit(desk, sent) == intake.submit(desk, sent)
    assert len(builders.shards(sessions)) == len(rung) == 3


def test_a_key_sent_with_another_id_gives_the_job_that_was_first(sessions: Sessions, tmp_path: Path) -> None:
    desk = builders.desk(sessions, tmp_path)
    first, second = (intake.submit(desk, builders.wire(NINE, idempotency_key="order-7")) for _ in range(2))
    assert first == second


OTHERWISE = {"other items": {"items": [*NINE[:8], "s3://photos/x.jpg"]}, "other top_k": {"top_k": 9}}


@pytest.mark.parametrize("change", OTHERWISE.values(), ids=OTHERWISE)
@pytest.mark.parametrize("job_id", [NOBODY, str(uuid.uuid4())], ids=["same id", "other id"])
def test_a_key_for_another_request_is_refused(
    sessions: Sessions, tmp_path: Path, change: dict[str, object], job_id: str
) -> None:
    desk = builders.desk(sessions, tmp_path)
    sent = builders.wire(NINE, idempotency_key="order-7", job_id=NOBODY)
    assert isinstance(intake.submit(desk, sent), Receipt)
    kind, sentence = refusal(intake.submit(desk, sent | change | {"job_id": job_id}))
    assert kind == "idempotency_conflict"
    assert sentence == "This job id or idempotency key was used before, for a different request."


def test_an_image_inside_a_message_becomes_a_reference_that_workers_can_read(
    sessions: Sessions, tmp_path: Path
) -> None:
    desk = builders.desk(sessions, tmp_path)
    image = {"bytes": base64.b64encode(b"an image").decode(), "key": "one"}
    jobs_of = [builders.submit(desk, [image, "s3://photos/1.jpg"]) for _ in range(2)]
    items = [builders.shards(sessions, job_id)[0].items for job_id in jobs_of]
    assert items[0] == items[1]
    [_, key, reference], plain = items[0]
    assert (key, plain) == ("one", [1, None, "s3://photos/1.jpg"])
    roots = references.Roots.parse([desk.inline_store])
    assert references.fetch(reference, roots, max_bytes=99) == b"an image"
    assert len([file for file in (tmp_path / "inline").rglob("*") if file.is_file()]) == 1


WRONG: dict[str, tuple[dict[str, object], str, str]] = {
    "malformed": ({"top_k": 0}, "invalid", "`top_k` must be a whole number from 1 to 100."),
    "too large inside": (
        {"items": [{"bytes": base64.b64encode(bytes(65)).decode()}]},
        "invalid",
        (
            "An inline image has 65 bytes; at most 64 travel in a message. "
            "Put it where the workers can read it and send its reference."
        ),
    ),
    "unknown model": ({"model": "dogs"}, "unknown_model", "No version of a model 'dogs' serves"),
    "unknown model, latest": (
        {"model": "dogs", "version": "latest"},
        "unknown_model",
        "No version of a model 'dogs' serves",
    ),
    "unknown version": ({"version": "cats:7"}, "unknown_version", "There is no version 'cats:7'."),
    "largest version": ({"version": "cats:999999999"}, "unknown_version", "There is no version 'cats:999999999'."),
    "a version of another model": (
        {"model": "dogs", "version": "cats:1"},
        "unknown_version",
        "cats:1 is not a version of model 'dogs'.",
    ),
}


@pytest.mark.parametrize(("fields", "kind", "sentence"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_recorded_is_refused_with_a_sentence(
    sessions: Sessions, tmp_path: Path, fields: dict[str, object], kind: str, sentence: str
) -> None:
    given, said = refusal(intake.submit(builders.desk(sessions, tmp_path), builders.wire(**fields)))
    assert given == kind
    assert said.startswith(sentence)
    assert builders.shards(sessions) == []


@pytest.mark.parametrize(
    ("asked", "pinned"), [(None, "cats:2"), ("cats:1", "cats:1"), ("latest", None)], ids=["default", "exact", "latest"]
)
def test_the_version_is_pinned_as_asked(
    sessions: Sessions, tmp_path: Path, saved: tuple, asked: str | None, pinned: str | None
) -> None:
    builders.version(sessions, saved[1], serves=True)
    assert view(sessions, builders.submit(builders.desk(sessions, tmp_path), version=asked)).version == pinned


def test_the_pin_stays_when_the_pointer_moves_between_parts(sessions: Sessions, tmp_path: Path, saved: tuple) -> None:
    desk = builders.desk(sessions, tmp_path)
    header = {"job_id": NOBODY, "num_items": 2}
    job_id = builders.submit(desk, NINE[:1], **header)
    builders.version(sessions, saved[1], serves=True)
    builders.submit(desk, NINE[1:2], first_position=1, **header)
    assert view(sessions, job_id).version == "cats:1"
    assert {shard.version_id for shard in builders.shards(sessions, job_id)} == {view(sessions, job_id).version_id}


ASKED: dict[str, Callable[[intake.Desk, object], object]] = {
    "status": intake.status,
    "results": intake.results,
    "cancel": intake.cancel,
}


@pytest.mark.parametrize(
    ("job_id", "kind", "sentence"),
    [
        (NOBODY, "unknown_job", f"There is no job {NOBODY}."),
        ("seven", "invalid", "`job_id` must be a UUID."),
        (None, "invalid", "`job_id` must be a UUID."),
        (7, "invalid", "`job_id` must be a UUID."),
    ],
)
@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_question_about_no_job_is_refused(
    sessions: Sessions, tmp_path: Path, ask: Callable, job_id: object, kind: str, sentence: str
) -> None:
    assert refusal(ask(builders.desk(sessions, tmp_path), job_id)) == (kind, sentence)


def test_a_status_tells_how_far_and_what_stands_in_the_way(sessions: Sessions, tmp_path: Path) -> None:
    desk = builders.desk(sessions, tmp_path)
    job_id = builders.submit(desk, NINE)
    finish_first(sessions, job_id, failing={1})
    status = intake.status(desk, str(job_id))
    assert (status.state, status.num_items, status.num_succeeded, status.num_failed) == ("running", 9, 3, 1)
    assert (status.num_done, status.is_final, status.version) == (4, False, "cats:1")
    assert status.note == "No classify worker serves model 'cats' at the moment."


@pytest.mark.parametrize(("asked", "ends"), [(None, "cancel it, and submit it"), ("latest", "rollback cats` lets it")])
def test_a_job_whose_version_no_worker_can_load_says_so_and_what_to_do(
    sessions: Sessions, version: registry.Version, tmp_path: Path, asked: str | None, ends: str
) -> None:
    desk = builders.desk(sessions, tmp_path)
    job_id = builders.submit(desk, version=asked)

    def note(number: int, **facts: object) -> str | None:
        with session.transaction(sessions) as transaction:
            row = heartbeat.row("classify", name=f"worker {number}", models=(builders.MODEL,), **facts)
            workers.beat(transaction, row)
            return intake.job_status(transaction, job_id).note

    assert note(1, message="cats:7 cannot be loaded: no.") is None, "another's trouble"
    said = note(1, message="cats:1 cannot be loaded: it was changed.")
    assert said.startswith("cats:1 cannot be loaded: it was changed. The job waits")
    assert ends in said
    assert note(2, warm=("cats:1",)) is None, "one has it"


def test_results_come_in_pages_in_the_order_of_the_items(sessions: Sessions, tmp_path: Path) -> None:
    desk = builders.desk(sessions, tmp_path)
    job_id = builders.submit(desk, [{"reference": one, "key": f"key {n}"} for n, one in enumerate(NINE)])
    finish_first(sessions, job_id, failing={1})
    first, rest = intake.results(desk, str(job_id), limit=2), intake.results(desk, str(job_id), after=1, limit=9)
    assert [one.position for one in first + rest] == [0, 1, 2, 3]
    assert (first[0].key, first[0].reference, first[0].label, first[0].top_k[0]) == (
        "key 0",
        NINE[0],
        "cat",
        ["cat", 0.75],
    )
    assert first[1].error == messages.ItemError(stage="decode", kind="ImageUnreadable", message="not an image")


@pytest.mark.parametrize("page", [{"limit": 0}, {"limit": 1001}, {"limit": True}, {"after": "3"}, {"after": 10**30}])
def test_a_page_that_cannot_be_is_refused(sessions: Sessions, tmp_path: Path, page: dict[str, object]) -> None:
    reply = intake.results(builders.desk(sessions, tmp_path), NOBODY, **page)
    assert refusal(reply) == ("invalid", "`after` must be a position and `limit` 1 to 1000.")


def test_a_cancelled_job_keeps_what_it_has_and_may_be_cancelled_again(sessions: Sessions, tmp_path: Path) -> None:
    desk = builders.desk(sessions, tmp_path)
    job_id = builders.submit(desk, NINE)
    finish_first(sessions, job_id)
    first, second = (intake.cancel(desk, str(job_id)) for _ in range(2))
    assert first == second
    assert (first.state, first.num_succeeded, first.is_final) == ("cancelled", 4, True)


class RedisWentAway(Exception):
    """What a broken bell raises here."""


def test_a_job_whose_bell_broke_is_accepted_and_rung_for_by_the_sweep(
    sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: bells.Bell) -> None:
        raise RedisWentAway

    sent = builders.wire(NINE)
    with pytest.raises(RedisWentAway):
        intake.submit(builders.desk(sessions, tmp_path, ring=broken), sent)
    rung: list[bells.Bell] = []
    desk = builders.desk(sessions, tmp_path, ring=rung.append)
    assert intake.submit(desk, sent).state == "accepted", "the client asks again, and is told"
    assert rung == []
    with monkeypatch.context() as later:
        later.setattr(relay, "RING_AGAIN_S", -1.0)
        swept = relay.sweep(sessions, rung.append, lambda queues: dict.fromkeys(queues, 0), max_attempts=3)
    assert swept.num_rung == len(rung) == 3
    assert not relay.sweep(sessions, rung.append, lambda queues: dict.fromkeys(queues, 0), max_attempts=3).num_rung


def finish_first(sessions: Sessions, job_id: uuid.UUID, *, failing: set[int] = frozenset()) -> None:
    """Record the outcomes of a job's first shard."""
    with session.transaction(sessions) as transaction:
        claim = leases.claim(transaction, builders.shards(sessions, job_id)[0].id, owner="ada", lease_s=60.0)
        leases.finish(transaction, claim, rows.outcomes_of(claim, failing=failing))
