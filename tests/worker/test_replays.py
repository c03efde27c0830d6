"""What a job labelled is classified again by another version, and where the two disagree."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import errors, jobs, labels, leases, outcomes, registry, session
from pipeline import checkpoints
from pipeline.learning.comparison import Change, Difference, Disagreement, Known, LabelChange
from tests.db import builders as rows
from tests.worker import builders
from tests.worker.machine import Machine, sentence
from worker import comparing, replays, serving
from worker.settings import Settings

#: label and score of seven items; the second failed
BEFORE = (("cat", 0.9), None, ("cat", 0.8), ("dog", 0.7), ("dog", 0.6), ("dog", 0.5), ("hen", 0.4))
#: the same items again; the second is labelled now, and the last one failed
NOW = (("cat", 1.0), ("cat", 0.3), ("dog", 0.9), ("hen", 0.7), ("hen", 0.6), ("dog", 0.8), None)


def answer(sessions: sessionmaker[Session], job_id: uuid.UUID, version: registry.Version, said: tuple) -> None:
    """Finish a job's shards with these labels and failures, as a classify child would."""
    answers = iter(said)
    for shard in builders.shards(sessions, job_id):
        with session.transaction(sessions) as transaction:
            claim = leases.claim(transaction, shard.id, owner="ada", lease_s=60.0)
            outcomes = []
            for item in claim.items:
                one = next(answers)
                outcomes.append(
                    rows.labelled(item, label=one[0], score=one[1], version_id=version.id) if one else rows.failed(item)
                )
            leases.finish(transaction, claim, outcomes)


@pytest.fixture
def versions(
    sessions: sessionmaker[Session], saved: tuple[checkpoints.Saved, ...]
) -> tuple[registry.Version, registry.Version]:
    """One that serves, and another."""
    return builders.version(sessions, saved[0], serves=True), builders.version(sessions, saved[1])


@pytest.fixture
def original(sessions: sessionmaker[Session], tmp_path: Path, versions: tuple[registry.Version, ...]) -> uuid.UUID:
    """A job that the serving version did."""
    named = [f"s3://photos/{number}.jpg" for number in range(len(BEFORE))]
    job_id = builders.submit(builders.desk(sessions, tmp_path), named)
    answer(sessions, job_id, versions[0], BEFORE)
    return job_id


def replay(sessions: sessionmaker[Session], job_id: uuid.UUID, version: registry.Version) -> uuid.UUID:
    with session.transaction(sessions) as transaction:
        return replays.replay(transaction, jobs.job(transaction, job_id), version, shard_size=4)


def test_a_replay_is_a_job_of_the_same_items_pinned_to_the_other_version(
    sessions: sessionmaker[Session], original: uuid.UUID, versions: tuple[registry.Version, ...]
) -> None:
    replayed = replay(sessions, original, versions[1])
    with session.reading(sessions) as reading:
        job = jobs.job(reading, replayed)
    assert (job.state, job.version, job.num_items, job.caller) == (
        "accepted", versions[1].name, 7, f"replay of {original}",
    )  # fmt: skip
    items = [item for shard in builders.shards(sessions, replayed) for item in shard.items]
    assert [(position, reference) for position, _, reference in items] == [
        (place, f"s3://photos/{number}.jpg") for place, number in enumerate(range(7))
    ]


def test_the_same_replay_is_the_same_job_however_often_it_is_asked_for(
    sessions: sessionmaker[Session], original: uuid.UUID, versions: tuple[registry.Version, ...]
) -> None:
    first = replay(sessions, original, versions[1])
    assert replay(sessions, original, versions[1]) == first
    assert replay(sessions, original, versions[0]) != first
    assert len(builders.shards(sessions, first)) == 2


def test_a_job_that_labelled_nothing_has_nothing_to_replay(
    sessions: sessionmaker[Session], tmp_path: Path, versions: tuple[registry.Version, ...]
) -> None:
    waiting = builders.submit(builders.desk(sessions, tmp_path))
    with pytest.raises(errors.UnknownJob, match="labelled nothing"):
        replay(sessions, waiting, versions[1])


def test_parts_of_a_large_job_come_in_order(
    sessions: sessionmaker[Session],
    original: uuid.UUID,
    versions: tuple[registry.Version, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replays, "PART", 4)
    replayed = replay(sessions, original, versions[1])
    with session.reading(sessions) as reading:
        assert jobs.job(reading, replayed).num_received == 7
    answer(sessions, replayed, versions[1], NOW)
    with session.reading(sessions) as reading:
        assert [replays.number_of(one) for one in outcomes.stream(reading, replayed)] == list(range(7))


def test_disagreement_says_what_changed_into_what_and_how_far_scores_moved(
    sessions: sessionmaker[Session], original: uuid.UUID, versions: tuple[registry.Version, ...]
) -> None:
    replayed = replay(sessions, original, versions[1])
    answer(sessions, replayed, versions[1], NOW)
    with session.reading(sessions) as reading:
        found = comparing.compare(reading, original, replayed, builders.MODEL).found()
    assert found == Disagreement(
        num_compared=5,
        num_failed=1,
        num_mended=1,
        num_failed_both=0,
        num_agreeing=2,
        agreement=0.4,
        score_before=pytest.approx(0.7),
        score_now=pytest.approx(0.8),
        score_shift=pytest.approx((0.1 + 0.1 + 0.0 + 0.0 + 0.3) / 5),
        per_label=(
            LabelChange(label="dog", num=3, num_changed=2, changed=pytest.approx(2 / 3), mostly="hen"),
            LabelChange(label="cat", num=2, num_changed=1, changed=0.5, mostly="dog"),
        ),
        changes=(
            Change(before="dog", now="hen", num=2, score_before=pytest.approx(0.65), score_now=pytest.approx(0.65)),
            Change(before="cat", now="dog", num=1, score_before=0.8, score_now=0.9),
        ),
        held_out=None,
        trained_on=None,
    )


def test_before_the_first_answer_there_is_nothing_to_compare(
    sessions: sessionmaker[Session], original: uuid.UUID, versions: tuple[registry.Version, ...]
) -> None:
    replayed = replay(sessions, original, versions[1])
    with session.reading(sessions) as reading:
        found = comparing.compare(reading, original, replayed, builders.MODEL).found()
    assert (found.num_compared, found.agreement, found.score_shift, found.per_label) == (0, None, None, ())


def test_real_networks_replay_real_images(
    sessions: sessionmaker[Session],
    tmp_path: Path,
    photos: Path,
    pool: ThreadPoolExecutor,
    versions: tuple[registry.Version, ...],
    job: Callable[..., uuid.UUID],
) -> None:
    station = builders.station(sessions, photos, pool)
    job_id = job(builders.write_images(photos, 4))
    builders.sit(station, job_id)
    itself, other = (replay(sessions, job_id, version) for version in versions)
    for one in (itself, other):
        serving.sit(station, builders.shards(sessions, one)[0].id)
    with session.reading(sessions) as reading:
        same = comparing.compare(reading, job_id, itself, builders.MODEL).found()
        found = comparing.compare(reading, job_id, other, builders.MODEL).found()
    assert (same.agreement, same.score_shift, same.num_compared) == (1.0, pytest.approx(0.0, abs=1e-6), 4)
    assert (found.num_compared, found.num_failed) == (4, 0)


def test_the_command_line_replays_and_reports(machine: Machine, saved: tuple[checkpoints.Saved, ...]) -> None:
    one, other = builders.version(machine.sessions, saved[0], serves=True), builders.version(machine.sessions, saved[1])
    named = [f"s3://photos/{number}.jpg" for number in range(len(BEFORE))]
    job_id = builders.submit(builders.desk(machine.sessions, machine.home), named)
    answer(machine.sessions, job_id, one, BEFORE)
    asked = ("jobs", "replay", job_id, "--version", other.name)
    said = machine.run(*asked)
    assert (said.code, said.err) == (0, "")
    assert f"7 items for {other.name} to classify again" in said.out
    replayed = machine.run(*asked, "--json").json["job_id"]
    assert machine.run(*asked, "--wait", "--timeout", "0", "--json").json["disagreement"]["num_compared"] == 0
    answer(machine.sessions, uuid.UUID(replayed), other, NOW)
    done = machine.run(*asked, "--wait")
    assert done.code == 1  # one item failed
    for fact in ("40.0% agree", "2 of 5", "+0.100", "dog", "66.7%", "hen", "1 failed"):
        assert fact in done.out
    page = machine.home / "page.html"
    told = machine.run(*asked, "--report", page, "--json").json
    written = page.read_text()
    for fact in (f"{other.name} agrees with {one.name} on 40.0", "3.jpg", "no picture", "not an image"):
        assert fact in written
    assert (told["replay_of"], told["job"]["state"]) == (str(job_id), "partial")
    assert told["disagreement"]["per_label"][0]["label"] == "dog"


def test_a_replay_of_what_is_not_there_is_refused(machine: Machine, saved: tuple[checkpoints.Saved, ...]) -> None:
    version = builders.version(machine.sessions, saved[0], serves=True)
    nobody = uuid.uuid4()
    assert str(nobody) in sentence(machine.run("jobs", "replay", nobody, "--version", version.name), 2)
    waiting = machine.submit()
    assert "labelled nothing" in sentence(machine.run("jobs", "replay", waiting, "--version", version.name), 2)
    assert "cats:9" in sentence(machine.run("jobs", "replay", waiting, "--version", "cats:9"), 2)


def test_where_labels_are_known_the_four_counts_tell_who_was_right(
    sessions: sessionmaker[Session], original: uuid.UUID, versions: tuple[registry.Version, ...]
) -> None:
    replayed = replay(sessions, original, versions[1])
    answer(sessions, replayed, versions[1], NOW)
    known = {0: "cat", 2: "dog", 3: "dog", 4: "fox"}
    with session.transaction(sessions) as transaction:
        news = [rows.label(number, label=name, reference=f"s3://photos/{number}.jpg") for number, name in known.items()]
        labels.add(transaction, builders.MODEL, news)
        found = comparing.compare(transaction, original, replayed, builders.MODEL).found()
    counted = [one for one in (found.held_out, found.trained_on) if one]
    assert [sum(getattr(one, name) for one in counted) for name in Known.__slots__[:5]] == [4, 1, 1, 1, 1]


def test_a_job_whose_outcomes_are_gone_is_told_apart_from_one_that_never_was(
    sessions: sessionmaker[Session], original: uuid.UUID, versions: tuple[registry.Version, ...]
) -> None:
    replayed = replay(sessions, original, versions[1])
    answer(sessions, replayed, versions[1], NOW)
    with session.reading(sessions) as reading, pytest.raises(errors.UnknownJob, match="nothing to compare with"):
        comparing.compare(reading, uuid.uuid4(), replayed, builders.MODEL)


def test_the_most_confident_differences_are_kept_and_come_first(
    sessions: sessionmaker[Session],
    original: uuid.UUID,
    versions: tuple[registry.Version, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparing, "MOST_DIFFERING", 2)
    replayed = replay(sessions, original, versions[1])
    answer(sessions, replayed, versions[1], NOW)
    with session.reading(sessions) as reading:
        seen = comparing.compare(reading, original, replayed, builders.MODEL)
    assert [(one.reference, one.score_now) for one in seen.most_differing()] == [
        ("s3://photos/2.jpg", 0.9), ("s3://photos/3.jpg", 0.7),
    ]  # fmt: skip
    assert [(one.before, one.now) for one in seen.failing] == [(None, "cat"), ("hen", None)]


def test_a_page_shows_images_of_allowed_roots_alone(
    sessions: sessionmaker[Session], tmp_path: Path, photos: Path
) -> None:
    inside, outside = builders.write_images(photos, 1)[0], builders.write_images(tmp_path, 1)[0]
    known = Settings(home=tmp_path / "home", allowed_roots=(str(photos),)).resolved()
    differing = [
        Difference(reference=one, key=None, before="cat", score_before=0.5, now="dog", score_now=0.6)
        for one in (inside, outside)
    ]
    first, second = comparing.with_pictures(differing, known)
    assert first.data_uri.startswith("data:image/jpeg;base64,")
    assert second.data_uri == ""
