"""Whoever asked for it hears of a job's end, knows that it is from us, and can neither stop us nor lead us elsewhere.

The receiver, its certificate and the connection are real. Only names and the ways to public addresses are made up,
below the sockets, so that nothing has to be let in for the tests.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from db import callbacks as rows
from db import jobs, models, registry, session
from pipeline import urls
from tests import receivers, web
from tests.internet import Internet
from tests.mills import await_until
from tests.worker import builders
from worker import callbacks, intake, messages, signatures
from worker import receivers as receivers_of
from worker.messages import Receipt, Refusal
from worker.settings import Settings

Sessions = sessionmaker[Session]
ADDRESS, OTHER_ADDRESS = "93.184.216.34", "93.184.216.35"
HOST, OTHER = "hooks.example.org", "other.example.org"
URL = f"https://{HOST}/done?token=hunter2"
ROOTS = (f"https://{HOST}", f"https://{OTHER}")


@pytest.fixture(autouse=True)
def _version(version: registry.Version) -> None:
    """Something serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """Two receivers, the Internet they are found on, and what nobody may touch."""

    receiver: receivers.Receiver
    other: receivers.Receiver
    canary: web.Server
    internet: Internet


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> web.Authority:
    """The one that this machine trusts."""
    return web.Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def net(authority: web.Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    with ExitStack() as stack:
        receiver, other = (stack.enter_context(receivers.receiving(authority, host)) for host in (HOST, OTHER))
        canary = stack.enter_context(web.canary())
        routes = {f"{ADDRESS} 443": receiver.port, f"{OTHER_ADDRESS} 443": other.port}
        routes |= {f"{address} 443": canary.port for address in ("127.0.0.1", "10.0.0.5", "169.254.169.254")}
        internet = Internet({HOST: [[ADDRESS]], OTHER: [[OTHER_ADDRESS]]}, routes)
        internet.install(monkeypatch.setattr)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        urls._context.cache_clear()
        yield Web(receiver=receiver, other=other, canary=canary, internet=internet)
        urls._context.cache_clear()
        assert canary.num_hits == 0


def sender(sessions: Sessions, **how: object) -> callbacks.Sender:
    usual = {"pauses_s": (0.0, 0.0), "patience_s": 5.0, "every_s": 0.05}
    return callbacks.Sender(sessions, ROOTS, [signatures.parse(receivers.SECRET)], **(usual | how))


def desk(sessions: Sessions, folder: Path) -> intake.Desk:
    return builders.desk(sessions, folder, callback_roots=ROOTS)


def ended(sessions: Sessions, folder: Path, url: str = URL, **fields: object) -> uuid.UUID:
    """A job that is over and whose end is to be told."""
    job_id = builders.submit(desk(sessions, folder), callback=url, **fields)
    with session.transaction(sessions) as transaction:
        jobs.cancel(transaction, job_id)
    return job_id


def told(sessions: Sessions, job_id: uuid.UUID) -> rows.Callback | None:
    with session.reading(sessions) as reading:
        return rows.of_job(reading, job_id)


# ---------------------------------------------------------------- what is sent


def test_the_end_of_a_job_is_told_with_its_counts_and_nothing_of_its_images(
    sessions: Sessions, tmp_path: Path, net: Web
) -> None:
    job_id = ended(sessions, tmp_path, items=["s3://photos/secret.jpg"], caller="shop")
    assert sender(sessions).post_next(HOST)
    [post] = net.receiver.posts
    assert (post.path, post.headers["content-type"], post.headers["host"]) == (
        "/done?token=hunter2",
        "application/json",
        HOST,
    )
    about = post.told["data"]
    assert post.told["type"] == "job.cancelled"
    assert (about["job_id"], about["state"], about["version"], about["num_items"]) == (
        str(job_id),
        "cancelled",
        "cats:1",
        1,
    )
    assert about["finished_at_s"] >= about["created_at_s"]
    assert post.told["timestamp"].endswith("Z")
    assert b"secret.jpg" not in post.body
    assert (told(sessions, job_id).state, told(sessions, job_id).last_status) == ("sent", 204)
    assert not sender(sessions).post_next(HOST), "once"


def test_a_receiver_can_verify_it_and_whoever_has_another_secret_cannot(
    sessions: Sessions, tmp_path: Path, net: Web
) -> None:
    ended(sessions, tmp_path)
    sender(sessions).post_next(HOST)
    [post] = net.receiver.posts
    assert post.is_signed_with(receivers.SECRET)
    assert not post.is_signed_with("whsec_" + "AAAA" * 8)
    assert "." not in post.headers["webhook-id"]


def test_the_same_end_has_the_same_id_and_body_and_the_next_end_another(
    sessions: Sessions, tmp_path: Path, net: Web
) -> None:
    job_id = ended(sessions, tmp_path)
    net.receiver.answers = [(500, {}, 0.0)]
    for _ in range(2):
        sender(sessions).post_next(HOST)
    first, second = net.receiver.posts
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    with session.transaction(sessions) as transaction:
        jobs.retry(transaction, job_id, shard_size=4)
    with session.transaction(sessions) as transaction:
        jobs.cancel(transaction, job_id)
    sender(sessions).post_next(HOST)
    assert net.receiver.posts[2].headers["webhook-id"] != first.headers["webhook-id"]


# ---------------------------------------------------------------- what fails


def test_an_error_is_tried_again_and_given_up_in_the_end_with_its_reason(
    sessions: Sessions, tmp_path: Path, net: Web
) -> None:
    kept, lost = ended(sessions, tmp_path), None
    net.receiver.answers = [(500, {}, 0.0), (503, {}, 0.0)]
    results = [sender(sessions).post_next(HOST) for _ in range(3)]
    assert results == [False, False, True]
    assert (told(sessions, kept).state, told(sessions, kept).attempts) == ("sent", 3)
    lost = ended(sessions, tmp_path)
    net.receiver.answers = [(500, {}, 0.0)] * 9
    for _ in range(4):
        sender(sessions).post_next(HOST)
    gone = told(sessions, lost)
    assert (gone.state, gone.attempts, gone.last_status) == ("given_up", 3, 500)
    assert gone.error == "The receiver answered 500."


def test_pauses_grow_as_the_schedule_says_and_a_receiver_may_ask_for_more(
    sessions: Sessions, tmp_path: Path, net: Web
) -> None:
    job_id = ended(sessions, tmp_path)
    net.receiver.answers = [(500, {}, 0.0), (429, {"Retry-After": "4000"}, 0.0), (503, {"Retry-After": "-1e9"}, 0.0)]
    for expected_s in (5.0, 4000.0, 1800.0):
        sender(sessions, pauses_s=callbacks.PAUSES_S).post_next(HOST)
        with session.transaction(sessions) as transaction:
            pause_s = rows.of_job(transaction, job_id).next_at_s - session.clock(transaction)
            assert expected_s - 2 < pause_s <= expected_s * (1 + callbacks.JITTER)
            transaction.execute(update(models.Callback).values(next_at_s=0.0))


def test_gone_is_gone(sessions: Sessions, tmp_path: Path, net: Web) -> None:
    job_id = ended(sessions, tmp_path)
    net.receiver.answers = [(410, {}, 0.0)]
    sender(sessions).post_next(HOST)
    assert (told(sessions, job_id).state, told(sessions, job_id).attempts) == ("given_up", 1)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_not_followed(sessions: Sessions, tmp_path: Path, net: Web, status: int) -> None:
    job_id = ended(sessions, tmp_path)
    net.receiver.answers = [(status, {"Location": f"https://{OTHER}/"}, 0.0)]
    assert not sender(sessions).post_next(HOST)
    assert told(sessions, job_id).error == f"The receiver answered {status}."
    assert net.other.posts == []


def test_a_receiver_that_is_silent_costs_its_patience_and_no_more(sessions: Sessions, tmp_path: Path, net: Web) -> None:
    job_id = ended(sessions, tmp_path)
    net.receiver.answers = [(200, {}, 30.0)]
    began_s = time.monotonic()
    assert not sender(sessions, patience_s=1.0).post_next(HOST)
    assert time.monotonic() - began_s < 5
    assert told(sessions, job_id).error == "The server did not answer within 1 seconds."


WAYS = {
    "loopback": (["127.0.0.1"], "does not lead to a public host"),
    "a private network": (["10.0.0.5"], "does not lead to a public host"),
    "the cloud's own": (["169.254.169.254"], "does not lead to a public host"),
    "half private": ([ADDRESS, "10.0.0.5"], "does not lead to a public host"),
    "somebody else": ([OTHER_ADDRESS], f"does not prove that it is {HOST}"),
    "nobody": (["93.184.216.99"], "cannot be reached"),
}


@pytest.mark.parametrize(("addresses", "reason"), WAYS.values(), ids=WAYS)
def test_a_name_that_leads_to_nobody_we_may_post_to_gets_nothing(
    sessions: Sessions, tmp_path: Path, net: Web, addresses: list[str], reason: str
) -> None:
    job_id = ended(sessions, tmp_path)
    net.internet.names[HOST] = [addresses]
    assert not sender(sessions).post_next(HOST)
    assert reason in told(sessions, job_id).error
    assert net.receiver.posts == net.other.posts == []


def test_a_host_that_is_allowed_no_more_is_given_up(sessions: Sessions, tmp_path: Path, net: Web) -> None:
    job_id = ended(sessions, tmp_path)
    strict = callbacks.Sender(sessions, [f"https://{OTHER}"], [signatures.parse(receivers.SECRET)])
    assert not strict.post_next(HOST)
    gone = told(sessions, job_id)
    assert (gone.state, gone.attempts) == ("given_up", 1)
    assert "not one that the operator allows" in gone.error
    assert net.receiver.posts == []


# ---------------------------------------------------------------- many at once


def test_a_slow_host_keeps_no_other_waiting(sessions: Sessions, tmp_path: Path, net: Web) -> None:
    for _ in range(8):
        ended(sessions, tmp_path)
    quick = [ended(sessions, tmp_path, f"https://{OTHER}/done") for _ in range(8)]
    net.receiver.answers = [(200, {}, 30.0)] * 8
    sending = sender(sessions, patience_s=4.0)
    began_s = time.monotonic()
    sending.start()
    await_until(lambda: all(told(sessions, one).state == "sent" for one in quick), "the quick host has all of its own")
    took_s = time.monotonic() - began_s
    sending.stop()
    assert took_s < 4, "before the slow one's patience is over"
    assert len(net.receiver.posts) <= callbacks.SENDERS_PER_HOST


def test_two_senders_tell_of_each_end_once(sessions: Sessions, tmp_path: Path, net: Web) -> None:
    ids = {str(ended(sessions, tmp_path)) for _ in range(20)}
    two = [sender(sessions) for _ in range(2)]
    for one in two:
        one.start()
    await_until(lambda: len(net.receiver.posts) >= 20, "all are told")
    await_until(lambda: all(told(sessions, uuid.UUID(one)).state == "sent" for one in ids), "all are noted")
    for one in two:
        one.stop()
    assert sorted(post.told["data"]["job_id"] for post in net.receiver.posts) == sorted(ids)


# ---------------------------------------------------------------- what intake takes

REFUSED = {
    "another host": (f"https://{OTHER}.evil.example/x", "The callback's host is not one that the operator allows"),
    "another port": (f"https://{HOST}:8443/x", "The callback's host is not one that the operator allows"),
    "a way out": (f"https://{HOST}/a/../b", "The callback's host is not one that the operator allows"),
    "no TLS": (f"http://{HOST}/x", "A callback is an https:// URL."),
    "a file": ("file:///etc/passwd", "A callback is an https:// URL."),
    "an address": ("https://93.184.216.34/x", "The callback cannot be used. A URL names its host by its full DNS name"),
    "a password": (f"https://me:you@{HOST}/x", "The callback cannot be used. A URL must not hold a user"),
    "a second request": (f"https://{HOST}/x HTTP/1.1\r\nA: b", "The callback cannot be used. A URL holds visible"),
}


@pytest.mark.parametrize(("url", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_callback_that_may_not_be_is_refused_and_so_is_its_job(
    sessions: Sessions, tmp_path: Path, url: str, sentence: str
) -> None:
    sent = builders.wire(callback=url)
    reply = intake.submit(desk(sessions, tmp_path), sent)
    assert isinstance(reply, Refusal), reply
    assert reply.kind == "callback_refused"
    assert reply.message.startswith(sentence)
    assert intake.status(desk(sessions, tmp_path), sent["job_id"]).kind == "unknown_job"


def test_without_hosts_every_callback_is_refused(sessions: Sessions, tmp_path: Path) -> None:
    reply = intake.submit(builders.desk(sessions, tmp_path), builders.wire(callback=URL))
    assert (reply.kind, reply.message.split(":")[0]) == ("callback_refused", "Callbacks are off here")


def test_a_callback_is_recorded_with_its_job_small_or_large(sessions: Sessions, tmp_path: Path) -> None:
    at = desk(sessions, tmp_path)
    small = builders.wire(callback=URL)
    large = builders.wire([f"s3://photos/{n}.jpg" for n in range(9)], callback=URL)
    plain = builders.wire()
    replies = intake.submit_all(at, [small, large, plain])
    assert all(isinstance(one.reply, Receipt) for one in replies)
    kept = [told(sessions, uuid.UUID(one["job_id"])) for one in (small, large, plain)]
    assert [one and (one.host, one.state) for one in kept] == [(HOST, "waiting"), (HOST, "waiting"), None]


def test_a_job_sent_again_has_one_callback_and_may_bring_the_one_it_lacked(sessions: Sessions, tmp_path: Path) -> None:
    at = desk(sessions, tmp_path)
    sent = builders.wire(idempotency_key="order-7")
    for url in (None, URL, f"https://{OTHER}/later"):
        again = sent | {"job_id": str(uuid.uuid4())} | ({"callback": url} if url else {})
        [reply] = [one.reply for one in intake.submit_all(at, [again])]
        assert isinstance(reply, Receipt)
    assert told(sessions, uuid.UUID(reply.job_id)).url == URL


def test_a_message_without_a_callback_is_as_it_was() -> None:
    sent = messages.Submission.parse(builders.wire())
    assert "callback" not in sent.as_json()


@pytest.mark.parametrize("name", ["a.bc", "hooks.example.org:8443", "xn--bcher-kva.example", f"{'a' * 63}.example.org"])
def test_a_host_that_the_settings_take_is_one_that_urls_have(name: str) -> None:
    set_ = Settings.from_env({"IMAGEMILL_CALLBACK_HOSTS": name.upper(), "IMAGEMILL_CALLBACK_SECRET": receivers.SECRET})
    assert receivers_of.roots(set_) == (f"https://{name}",)
    assert receivers_of.host_of(f"https://{name}/done", receivers_of.roots(set_)) == name


def test_without_a_secret_there_are_no_receivers() -> None:
    assert receivers_of.roots(Settings.from_env({"IMAGEMILL_CALLBACK_HOSTS": HOST})) == ()
    assert receivers_of.roots(Settings.from_env({"IMAGEMILL_CALLBACK_SECRET": receivers.SECRET})) == ()
