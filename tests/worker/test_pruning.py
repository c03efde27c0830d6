"""What is old and needed by nobody goes; whatever the mixture, and wherever it is cut off, what is named stays."""

import os
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from db import errors, jobs, labels, leases, live_checks, models, registry, retention, session, snapshots, windows
from tests.db import builders as rows
from tests.properties import tried
from tests.worker import builders
from tests.worker.machine import Machine, sentence
from worker import backups, inline, intake, pruning
from worker.settings import Settings

DAY_S = pruning.DAY_S
OLD_S = 30 * DAY_S
NUM_IMAGES = 6


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One job of a mixture."""

    state: str
    is_old: bool
    images: tuple[int, ...]
    is_replay: bool


MIXTURE = st.lists(
    st.builds(
        Wanted,
        state=st.sampled_from(["succeeded", "cancelled", "accepted", "receiving"]),
        is_old=st.booleans(),
        images=st.lists(st.integers(0, NUM_IMAGES - 1), min_size=1, max_size=4).map(tuple),
        is_replay=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


class Killed(Exception):
    """Stands for a kill between two transactions."""


@pytest.fixture
def known(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home").resolved()


@dataclass(frozen=True, kw_only=True)
class Place:
    """A ledger and a store."""

    sessions: sessionmaker[Session]
    known: Settings

    def image(self, data: bytes) -> str:
        return inline.keep(data, self.known.inline_store, max_bytes=1000)

    def age_images(self) -> None:
        """Let days pass since any image was written, or named last."""
        long_ago_s = time.time() - 3 * DAY_S
        for file in Path(self.known.inline_store.removeprefix("file://")).rglob("?" * 64):
            os.utime(file, (long_ago_s, long_ago_s))

    def job(self, references: Sequence[str], state: str = "succeeded", *, is_old: bool = True) -> uuid.UUID:
        """Put a job into the ledger that came into this state long ago, or just now."""
        desk = builders.desk(self.sessions, Path("/nowhere"), shard_size=2)
        wire = builders.wire(references, num_items=len(references) + (state == "receiving"), version="cats:1")
        reply = intake.submit(replace(desk, inline_store=self.known.inline_store), wire)
        job_id = uuid.UUID(reply.job_id)
        with session.transaction(self.sessions) as transaction:
            if state == "succeeded":
                for shard in builders.shards(self.sessions, job_id):
                    claim = leases.claim(transaction, shard.id, owner="ada", lease_s=60.0)
                    leases.finish(transaction, claim, rows.outcomes_of(claim, version_id=1))
            if state == "cancelled":
                jobs.cancel(transaction, job_id)
            if is_old:
                self.age(transaction, job_id)
        return job_id

    def age(self, transaction: Session, job_id: uuid.UUID) -> None:
        job, shard, outcome = models.Job, models.Shard, models.Outcome
        moved = {"created_at_s": job.created_at_s - OLD_S, "finished_at_s": job.finished_at_s - OLD_S}
        transaction.execute(update(job).where(job.id == job_id).values(moved))
        created = {"created_at_s": shard.created_at_s - OLD_S}
        transaction.execute(update(shard).where(shard.job_id == job_id).values(created))
        recorded = {"recorded_at_s": outcome.recorded_at_s - OLD_S}
        transaction.execute(update(outcome).where(outcome.job_id == job_id).values(recorded))

    def label(self, reference: str, data: bytes) -> None:
        with session.transaction(self.sessions) as transaction:
            labels.add(transaction, builders.MODEL, [rows.label(data.hex(), reference=reference)])

    def prune(self, **how: object) -> pruning.Pruned:
        return pruning.prune(self.sessions, self.known, **({"older_than_s": 7 * DAY_S, "rest": 0.0} | how))

    def num(self, table: type, *conditions: object) -> int:
        with session.reading(self.sessions) as reading:
            return reading.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()

    def named(self) -> set[str]:
        """Read every inline image that any row names."""
        with session.reading(self.sessions) as reading:
            found = {*reading.scalars(select(models.Label.reference)), *reading.scalars(select(models.Image.reference))}
            found |= set(reading.scalars(select(models.Outcome.reference)))
            for items in reading.scalars(select(models.Shard.items).where(models.Shard.items.is_not(None))):
                found |= {item[2] for item in items}
        return {reference for reference in found if reference.startswith(self.known.inline_store)}


@pytest.fixture
def place(sessions: sessionmaker[Session], known: Settings) -> Place:
    """A ledger with a version that serves, a snapshot and a label of an image of its own."""
    with session.transaction(sessions) as transaction:
        version = registry.register(transaction, rows.new_version(builders.MODEL))
        registry.promote(transaction, builders.MODEL, version.id, seen_epoch=0, who="ada", reason="")
        snapshots.record(transaction, rows.new_snapshot(model=builders.MODEL))
    return Place(sessions=sessions, known=known)


def is_there(reference: str) -> bool:
    return Path(reference.removeprefix("file://")).exists()


@tried(5)
@given(mixture=MIXTURE, labelled=st.sets(st.integers(0, NUM_IMAGES - 1), max_size=3), cut=st.integers(1, 12))
def test_whatever_the_mixture_and_wherever_it_is_cut_off_what_is_named_stays(
    place: Place, mixture: list[Wanted], labelled: set[int], cut: int
) -> None:
    salt = uuid.uuid4().hex
    data = [f"{salt}-{number}".encode() for number in range(NUM_IMAGES)]
    images = [place.image(one) for one in data]
    for number in labelled:
        place.label(images[number], data[number])
    made = [(one, place.job([images[n] for n in one.images], one.state, is_old=one.is_old)) for one in mixture]
    for one, job_id in made:
        if one.is_replay:
            with session.transaction(place.sessions) as transaction:
                version = registry.version(transaction, builders.MODEL)
                check = live_checks.NewCheck(
                    model=salt, promotion_epoch=uuid.uuid4().int >> 70, version_id=version.id,
                    previous_version_id=version.id, replay_job_id=job_id,
                )  # fmt: skip
                begun = live_checks.begin(transaction, check)
                live_checks.end(transaction, begun.id, state="passed", numbers={}, reason="")
    kept_rows = {table: place.num(table) for table in (models.Label, models.Image, models.Group, models.Version)}
    place.age_images()
    left = iter(range(cut))

    def cut_off(_: pruning.Pruned) -> None:
        if next(left, None) is None:
            raise Killed

    for how in ({"show": cut_off}, {}):
        try:
            place.prune(**how)
        except Killed:
            # Whoever reads now sees whole jobs, or none.
            with session.reading(place.sessions) as reading:
                for _, job_id in made:
                    there = place.num(models.Job, models.Job.id == job_id)
                    if there:
                        seen = jobs.job(reading, job_id)
                        recorded = place.num(models.Outcome, models.Outcome.job_id == job_id)
                        assert recorded == seen.num_succeeded + seen.num_failed
        assert all(is_there(reference) for reference in place.named())
    for one, job_id in made:
        # A job that is being received is no replay.
        is_kept = not one.is_old or one.state == "accepted" or (one.is_replay and one.state != "receiving")
        assert place.num(models.Job, models.Job.id == job_id) == is_kept
        if not is_kept:
            for table in (models.Outcome, models.Shard, models.Part, models.Removal):
                assert place.num(table, table.job_id == job_id) == 0
    assert {reference for reference in images if is_there(reference)} == place.named() & set(images)
    assert {table: place.num(table) for table in kept_rows} == kept_rows
    assert place.num(models.Snapshot) == 1


def test_what_drift_has_not_seen_yet_stays_until_a_window_has(place: Place) -> None:
    with session.transaction(place.sessions) as transaction:
        transaction.execute(update(models.Version).values(source="run"))
    job_id = place.job(["file:///photos/1.jpg"])
    assert place.prune().num_jobs == 0
    with session.transaction(place.sessions) as transaction:
        until_s = session.clock(transaction) - 20 * DAY_S
        seen = windows.NewWindow(
            model=builders.MODEL, version_id=1, after_s=0.0, until_s=until_s, num_items=1, min_p=0.5, is_alarm=False
        )
        windows.record(transaction, seen)
    assert place.prune().num_jobs == 1
    assert place.num(models.Job, models.Job.id == job_id) == 0


def test_what_a_watched_promotion_is_compared_with_stays_while_it_is_watched(place: Place) -> None:
    place.job(["file:///photos/1.jpg"])
    with session.transaction(place.sessions) as transaction:
        check = live_checks.NewCheck(model="cats", promotion_epoch=2, version_id=1, previous_version_id=1)
        begun = live_checks.begin(transaction, check)
    assert place.prune().num_jobs == 0
    with session.transaction(place.sessions) as transaction:
        live_checks.end(transaction, begun.id, state="passed", numbers={}, reason="")
    assert place.prune().num_jobs == 1


def test_a_dry_run_tells_what_would_go_and_removes_nothing(place: Place) -> None:
    shared, own = place.image(b"shared"), place.image(b"own")
    place.job([shared, own, "file:///photos/1.jpg"])
    place.job([shared], is_old=False)
    place.age_images()
    told = place.prune(is_dry_run=True)
    assert (told.num_jobs, told.num_outcomes, told.num_shards, told.num_images, told.num_bytes) == (1, 3, 2, 1, 3)
    assert place.num(models.Job) == 2
    assert is_there(own)
    gone = place.prune()
    assert replace(gone, is_dry_run=True) == told
    assert is_there(shared)


def test_an_image_that_comes_again_or_is_named_again_stays(place: Place) -> None:
    again, labelled = place.image(b"again"), place.image(b"labelled")
    place.age_images()
    place.image(b"again")  # somebody is about to name it
    inline.hold(labelled, place.known.inline_store)
    assert place.prune().num_images == 0
    assert is_there(again)
    assert is_there(labelled)


def test_a_job_that_is_being_removed_is_neither_retried_nor_cancelled(place: Place) -> None:
    job_id = place.job(["file:///photos/1.jpg"], "cancelled")
    with session.transaction(place.sessions) as transaction:
        assert retention.begin(transaction, job_id, session.clock(transaction), {})
        assert not retention.begin(transaction, job_id, session.clock(transaction), {})
        with pytest.raises(errors.UnknownJob):
            jobs.retry(transaction, job_id, shard_size=4)
    assert place.prune().num_jobs == 1


def test_each_transaction_removes_a_bounded_number_of_rows(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS", 3)
    place.job([f"file:///photos/{number}.jpg" for number in range(8)])
    seen = []
    place.prune(show=lambda so_far: seen.append(so_far.num_shards + so_far.num_outcomes))
    assert seen == [3, 4, 7, 10, 12]


def test_a_backup_beside_a_prune_misses_nothing_that_it_names(place: Place, tmp_path: Path) -> None:
    waiting, done = place.image(b"waiting"), place.image(b"done")
    place.job([waiting], "accepted")
    place.job([done])
    place.age_images()
    pruned = threading.Event()

    def show(what: str, *_: int) -> None:
        if what == "Files of the store" and not pruned.is_set():
            place.prune()
            pruned.set()

    with session.transaction(place.sessions) as transaction:
        transaction.execute(update(models.Version).values(reference=f"{place.known.store}/none"))
        transaction.execute(update(models.Snapshot).values(reference=f"{place.known.store}/snapshots/none"))
    file = tmp_path / "mill.tar"
    told = backups.back_up(place.sessions, place.known.store, file, show=show, now_s=1.0)
    assert not is_there(done)
    assert [name for name in told.missing if "inline" in name] == []
    assert f"store/{waiting.removeprefix(place.known.store + '/')}" in told.members


def test_the_chore_does_nothing_where_everything_is_kept_and_prunes_where_not(place: Place) -> None:
    place.job(["file:///photos/1.jpg"])
    assert not pruning.Chore(place.sessions, place.known).start()
    chore = pruning.Chore(place.sessions, replace(place.known, keep_days=7))
    assert chore.start()
    chore.join(30.0)
    assert place.num(models.Job) == 0


def test_old_versions_that_never_served_are_listed_and_left(place: Place, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights").write_bytes(b"12345")
    with session.transaction(place.sessions) as transaction:
        registry.register(transaction, rows.new_version(builders.MODEL, reference=f"file://{tmp_path}/checkpoint"))
    found = pruning.removable_versions(place.sessions, older_than_s=-5.0)
    assert [(one.version, one.num_bytes) for one in found] == [("cats:2", 5)]


def test_the_command_line_prunes_and_says_what_went(machine: Machine) -> None:
    assert "--older-than" in sentence(machine.run("prune"), 2)
    told = machine.run("prune", "--older-than", "7", "--dry-run")
    assert (told.code, told.err) == (0, "")
    assert "Would go, older than 7 days: 0 jobs" in told.out
    assert machine.run("prune", "--older-than", "7", "--json").json["pruned"]["num_jobs"] == 0
