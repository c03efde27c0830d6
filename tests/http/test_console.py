"""The console over a real server and a real ledger, without a worker: what is shown, to whom, and what is not."""

import io
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy.orm import Session, sessionmaker

from db import gates, outcomes, proposals, registry, runs, session, triggers
from db import labels as label_rows
from tests import builders as pictures
from tests.db import builders
from tests.http.conftest import Served, serve
from tests.http.visits import Visitor
from worker.settings import Settings

NASTY = "<img src=x onerror=alert(1)>\"'&"
MODEL = builders.MODEL
#: what no page may hold unescaped
RAW = "<img src=x"


@pytest.fixture
def hall(database_url: str, home: Path) -> Iterator[Served]:
    """A server whose broker is away: pages need none."""
    photos = home / "photos"
    photos.mkdir()
    settings = Settings(
        home=home,
        broker_url="redis://127.0.0.1:1/0",
        database_url=database_url,
        allowed_roots=(str(photos),),
        max_image_bytes=200_000,
        max_image_pixels=1_000_000,
    ).resolved()
    with serve(settings) as served:
        yield served


def visitor(hall: Served, *scopes: str) -> Visitor:
    return Visitor(port=hall.port, key=hall.key(*(scopes or ("submit",)), name="ada"))


def photo(hall: Served, name: str, data: bytes | None = None) -> str:
    file = Path(hall.settings.allowed_roots[0]) / name
    file.write_bytes(pictures.png_bytes(size=(400, 300), seed=1) if data is None else data)
    return file.as_uri()


def record(sessions: sessionmaker[Session], *rows: outcomes.Outcome) -> uuid.UUID:
    """Record a job's outcomes as they are."""
    with session.transaction(sessions) as transaction:
        job_id = builders.submit(transaction, max(1, len(rows)))
        outcomes.insert(transaction, job_id, 1, rows)
    return job_id


def row(position: int, **columns: object) -> outcomes.Outcome:
    return builders.labelled(builders.items(1, position)[0], **columns)


def make_version(sessions: sessionmaker[Session], **card: object) -> registry.Version:
    with session.transaction(sessions) as transaction:
        made = registry.register(transaction, builders.new_version(**card))
        serving = registry.serving(transaction, MODEL)
        if serving is None:
            registry.promote(transaction, MODEL, made.id, seen_epoch=0, who=NASTY, reason=NASTY)
    return made


# ------------------------------------------------------------ who is let in


def test_nobody_sees_a_page_without_a_key_and_is_led_back_after_signing_in(hall):
    stranger = Visitor(port=hall.port)
    for path in ("/console", "/console/jobs?before=", "/console/models", f"/console/images/jobs/{uuid.uuid4()}/0"):
        answer = stranger.get(path)
        assert (answer.status, answer.headers["location"].partition("?")[0]) == (303, "/console/sign-in")
    key = hall.key("label")
    entered = stranger.post("/console/sign-in", key=f" {key} ", next="/console/runs")
    assert (entered.status, entered.headers["location"]) == (303, "/console/runs")
    cookie = entered.headers["set-cookie"]
    assert f"imagemill_key={key}" in cookie
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert Visitor(port=hall.port, key=key).get("/console/runs").status == 200


@pytest.mark.parametrize("asked", ["https://evil.example/", "//evil.example", "/console.evil", "/console\\evil", "/v1"])
def test_signing_in_leads_nowhere_but_into_the_console(hall, asked):
    entered = Visitor(port=hall.port).post("/console/sign-in", key=hall.key("label"), next=asked)
    assert entered.headers["location"] == "/console"


def test_a_key_that_is_unknown_or_has_expired_is_refused_in_a_sentence(hall):
    for key in ("im_nobody", hall.key("label", expires_in_s=-1.0)):
        answer = Visitor(port=hall.port).post("/console/sign-in", key=key)
        assert answer.status == 401
        assert "set-cookie" not in answer.headers
        assert b'role="alert"' in answer.body
        assert Visitor(port=hall.port, key=key).get("/console").status == 303


@pytest.mark.parametrize(
    ("path", "form"),
    [
        (f"/console/models/{MODEL}/promote", {"version": "dogs:1"}),
        (f"/console/models/{MODEL}/rollback", {}),
        ("/console/runs", {"model": MODEL}),
        ("/console/runs/1/cancel", {}),
        (f"/console/review/{MODEL}", {"item": "1", "of": "suggest", "label": "cat"}),
    ],
)
def test_what_changes_something_needs_its_scope_and_a_page_of_ours(hall, path, form):
    make_version(hall.sessions)
    looks = visitor(hall)
    refused = looks.post(path, **form)
    assert refused.status == 403
    assert b"scope" in refused.body
    may = visitor(hall, "label", "operate")
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{hall.port + 1}"):
        other = Visitor(port=hall.port, key=may.key, origin=origin)
        assert other.post(path, **form).status == 403
    if path != "/console/runs":  # which would wait for intake
        assert may.post(path, **form).status in (400, 404, 409)


# ------------------------------------------------------------ what pages hold


def test_every_page_escapes_whatever_strangers_wrote_and_allows_no_script_but_its_own(hall):
    version = make_version(hall.sessions, arch=NASTY, reference=NASTY)
    job_id = record(
        hall.sessions,
        row(0, key=NASTY, reference=f"file:///{NASTY}", label=NASTY, top_k=((NASTY, 0.75),), version_id=version.id),
        builders.failed(builders.items(1, 1)[0], NASTY),
    )
    with session.transaction(hall.sessions) as transaction:
        label_rows.add(transaction, MODEL, [builders.label("a", label=NASTY)])
        new = [proposals.NewProposal(reference=NASTY, sha256="0" * 64, why=NASTY, label=NASTY, suggested=NASTY)]
        proposals.replace(transaction, MODEL, "audit", version.name, new)
        run = runs.request(transaction, builders.new_run(reason=NASTY, asked_by=NASTY))
        triggers.write(transaction, triggers.NewTick(model=MODEL, is_fired=False, reason=NASTY, facts={NASTY: NASTY}))
        verdict = {"checks": [{"name": NASTY, "passed": False, "sentence": NASTY}], "warnings": [NASTY]}
        gate = gates.NewGate(
            run_id=run.id, challenger_id=version.id, champion_id=None, test_digest="e1", verdict="hold", reason=NASTY,
            numbers=verdict,
        )  # fmt: skip
        gates.record(transaction, gate)
    looks = visitor(hall, "label", "operate")
    for path in (
        "", "/jobs", f"/jobs/{job_id}", f"/jobs/{job_id}?label=%3Cimg%20src=x", f"/jobs/{job_id}/items/0",
        f"/jobs/{job_id}/items/1", "/review", f"/review/{MODEL}?of=audit", f"/review/{MODEL}?of=doubt", "/models",
        f"/models/{MODEL}", f"/models/{MODEL}/1", "/runs", "/runs?model=%3Cimg%20src=x", f"/runs/{run.id}", "/triggers",
        "/%3Cimg%20src=x", "/sign-in?next=%3Cimg%20src=x",
    ):  # fmt: skip
        answer = looks.get(f"/console{path}")
        assert answer.status in (200, 404), (path, answer.status, answer.body)
        assert RAW.encode() not in answer.body, path
        assert b"<script>" not in answer.body, path
        assert b" style=" not in answer.body, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_a_gallery_is_paged_and_sorted_by_its_address_alone(hall):
    version = make_version(hall.sessions)
    scores = [((7 * n) % 100) / 100 for n in range(100)]
    job_id = record(hall.sessions, *(row(n, score=score, version_id=version.id) for n, score in enumerate(scores)))
    looks, seen = visitor(hall), []
    path = f"/console/jobs/{job_id}?order=doubtful&low=0.1"
    while path:
        page = looks.read(path)
        seen += [int(part.partition('"')[0]) for part in page.split(f"/console/jobs/{job_id}/items/")[1:]]
        before, _, after = page.partition('" rel="next"')
        path = before.rpartition('href="')[2] if after else ""
    wanted = sorted((n for n in range(100) if scores[n] >= 0.1), key=lambda n: (scores[n], n))
    assert seen == wanted


def test_a_page_behind_the_last_image_is_empty(hall):
    job_id = record(hall.sessions, row(0))
    answer = visitor(hall).get(f"/console/jobs/{job_id}?after=99")
    assert answer.status == 200
    assert 'class="empty"' in answer.body.decode()


@pytest.mark.parametrize(
    "query", ["low=2", "low=x", "order=up", "after=-1", "after=9:nan", "before=1e9", "after=99999999999", "high=nan"]
)
def test_an_address_that_makes_no_sense_is_told_so_on_a_page(hall, query):
    job_id = record(hall.sessions, row(0))
    answer = visitor(hall).get(f"/console/jobs/{job_id}?{query}")
    assert answer.status == 400
    assert answer.headers["content-type"].startswith("text/html")


def test_what_is_not_there_is_told_on_a_page(hall):
    looks = visitor(hall)
    for path in (f"/jobs/{uuid.uuid4()}", "/models/none", "/models/none/1", "/runs/9", "/runs/9/report", "/nothing"):
        answer = looks.get(f"/console{path}")
        assert answer.status == 404, path
        assert answer.headers["content-type"].startswith("text/html")


# ------------------------------------------------------------ pictures


def test_a_picture_is_a_small_jpeg_of_our_own_making(hall):
    reference = photo(hall, "cat.png")
    job_id = record(hall.sessions, row(0, reference=reference))
    answer = visitor(hall).get(f"/console/images/jobs/{job_id}/0")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["x-content-type-options"] == "nosniff"
    with Image.open(io.BytesIO(answer.body)) as shown:
        assert (shown.format, shown.size) == ("JPEG", (240, 180))


def test_only_recorded_references_under_the_roots_are_read_and_all_else_is_a_drawing_that_says_why(hall, tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(pictures.png_bytes(seed=2))
    script = photo(hall, "page.html", b"<script>alert(1)</script>")
    drawing = photo(hall, "drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")
    large = photo(hall, "large.png", b"\x89PNG" + bytes(300_000))
    job_id = record(
        hall.sessions,
        *(row(n, reference=name) for n, name in enumerate((outside.as_uri(), script, drawing, large, "file:///none"))),
    )
    looks = visitor(hall)
    for position in range(5):
        answer = looks.get(f"/console/images/jobs/{job_id}/{position}")
        assert (answer.status, answer.headers["content-type"]) == (422, "image/svg+xml")
        assert b"<script" not in answer.body
        assert "sandbox" in answer.headers["content-security-policy"]
    assert b"outside" in looks.get(f"/console/images/jobs/{job_id}/0").body
    for path in (f"jobs/{job_id}/5", f"jobs/{uuid.uuid4()}/0", "proposals/77"):
        assert looks.get(f"/console/images/{path}").status == 404


# ------------------------------------------------------------ review without a worker


def test_the_review_page_shows_proposals_in_order_and_says_when_intake_is_away(hall):
    version = make_version(hall.sessions)
    names = [photo(hall, f"{n}.png", pictures.png_bytes(seed=n)) for n in range(2)]
    with session.transaction(hall.sessions) as transaction:
        label_rows.add(transaction, MODEL, [builders.label("a", label="cat"), builders.label("b", label="dog")])
        new = [proposals.NewProposal(reference=name, sha256=builders.sha256(name), why="margin") for name in names]
        proposals.replace(transaction, MODEL, "suggest", version.name, new)
        first = proposals.next_waiting(transaction, MODEL, "suggest")
    looks = visitor(hall, "label")
    page = looks.read(f"/console/review/{MODEL}")
    assert names[0] in page
    assert page.index('value="cat" data-key="1"') < page.index('value="dog" data-key="2"')
    assert names[1] in looks.read(f"/console/review/{MODEL}?of=suggest&after=0")
    assert "Nothing waits" in looks.read(f"/console/review/{MODEL}?of=suggest&after=1")
    refused = looks.post(f"/console/review/{MODEL}", item=str(first.id), of="suggest", label="")
    assert refused.status == 422
    assert b'role="alert"' in refused.body


def test_the_server_with_its_console_never_imports_torch():
    code = "import sys, worker.web.server; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_what_was_recorded_is_said_with_the_way_back_but_never_in_a_strangers_words(hall):
    version = make_version(hall.sessions)
    with session.transaction(hall.sessions) as transaction:
        label_rows.add(transaction, MODEL, [builders.label("a", label="cat")])
        new = [proposals.NewProposal(reference="x", sha256="0" * 64, why="margin")]
        proposals.replace(transaction, MODEL, "suggest", version.name, new)
    looks = visitor(hall, "label")
    page = looks.read(f"/console/review/{MODEL}?of=suggest&after=0&done=1&as=cat")
    assert "Recorded “cat”." in page
    assert f"/console/review/{MODEL}?of=suggest&at=1" in page
    assert "Recorded" not in looks.read(f"/console/review/{MODEL}?of=suggest&after=0&done=1&as=call+0800")
