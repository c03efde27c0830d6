"""Faults of learning: whatever is killed, stopped or broken, a run ends once, and what serves is whole.

Rows 14 and 19 to 22 of the fault table, and a learn worker that is killed at random moments.
`--full` runs them in full: both databases, each place twenty times.
"""

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from db import models, registry, runs, session, workers
from pipeline import checkpoints
from pipeline.errors import CheckpointBroken
from tests import builders
from tests.chaos import learners, rows
from tests.mills import PATIENCE_S, Mill, await_until, open_mill
from tests.worker.schools import MODEL, School, open_school, picture
from worker import labelling, versions
from worker.learning_messages import LabelledImage
from worker.messages import local_path

FULL = os.environ.get("IMAGEMILL_TEST_CHAOS_FULL") == "1"
DATABASES = ("sqlite", "postgresql")
PETS = ("cat", "dog", "hen")

#: places of a run at which a checkpoint or the pointer is on its way -> whether the pointer has moved there
PLACES = {
    "mid_state_write": False,
    "after_state_rename": False,
    "mid_trained_write": False,
    "after_trained_rename": False,
    "mid_write.checkpoints": False,
    "after_rename.checkpoints": False,
    "before_register": False,
    "before_promote": False,
    "mid_promote": False,
    "after_promote": True,
}
#: seconds in which another has the run that was given back; a sweep comes each minute
AT_ONCE_S = 20.0
#: the least that a row of the table asks for
ESSENTIAL = ("mid_state_write", "mid_write.checkpoints", "after_rename.checkpoints", "before_promote", "after_promote")


def on(*short: str) -> pytest.MarkDecorator:
    """Run on these databases, or on both if there is time."""
    return pytest.mark.parametrize("database_url", DATABASES if FULL else short, indirect=True)


# ---------------------------------------------------------------- one run, carried by bare learn children


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """The folder in which places are armed."""
    folder = tmp_path / "points"
    folder.mkdir()
    return folder


@pytest.fixture
def school(tmp_path: Path, database_url: str, sessions: sessionmaker[Session]) -> Iterator[School]:
    """A model whose champion knows nothing, with labels from which a better one comes."""
    with open_school(tmp_path / "mill", sessions) as opened:
        known = replace(opened.settings, database_url=database_url, run_lease_s=1.0, torch_threads=1)
        opened.teach(PETS, 30)
        network = builders.tiny_network(len(PETS), seed=1)
        champion = versions.register(sessions, known.store, MODEL, network, builders.tiny_draft(PETS), source="import")
        versions.promote(sessions, champion.name, reason="a test")
        yield replace(opened, settings=known)


def dialect(sessions: sessionmaker[Session]) -> str:
    return session.engine_of(sessions).dialect.name


def count_versions_that_verify(school: School) -> int:
    """Load every version that is registered, and replay what it is to say."""
    with session.reading(school.sessions) as reading:
        found = registry.versions(reading, MODEL)
    for version in found:
        checkpoints.verify(version.reference, version.sha256)
    return len(found)


def promotions(school: School) -> list[str]:
    """Name who moved the pointer, in order."""
    with session.reading(school.sessions) as reading:
        return [move.who for move in registry.history(reading, MODEL)]


@on("sqlite")
@pytest.mark.timeout(1800)
def test_21_a_run_killed_at_every_place_of_its_checkpoints_ends_once_and_all_that_is_registered_is_whole(
    school: School, points: Path
) -> None:
    places, num_runs = (tuple(PLACES), 20) if FULL else (ESSENTIAL, 1)
    recovery_s: list[float] = []
    asked: list[int] = []
    for seed in range(num_runs):
        # New labels for each: where the same network comes of it, its checkpoint is there and nothing is written.
        school.teach(PETS, 1, first=100 + seed)
        asked.append(school.ask(strategy="last_stage", seed=seed).id)
        recovery_s += kill_at(school, points, places, asked[-1], before=f"{MODEL}:1", after=f"{MODEL}:{seed + 2}")
        if seed + 1 < num_runs:
            versions.rollback(school.sessions, MODEL, reason="so that the next run has the same champion to beat")
    who, num_versions = promotions(school), count_versions_that_verify(school)
    left = list(Path(local_path(school.settings.store), "checkpoints").glob(".*"))
    assert not any(school.workshop.run_folder(run_id).exists() for run_id in asked)
    rows.check(
        rows.Row(
            number="21",
            fault=f"SIGKILL of the trainer at {len(places)} places of its checkpoints, {num_runs} times each",
            database=dialect(school.sessions),
            submitted=num_runs,
            recorded=len({f"run {run_id}" for run_id in asked} & set(who)),
            unexpected=num_versions - 1 - num_runs,
            duplicates=sum(who.count(f"run {run_id}") - 1 for run_id in asked),
            executions=sum(school.read(run_id).fence for run_id in asked) / num_runs,
            recovery_s=tuple(recovery_s),
            note=f"{num_versions} versions, all verify; {len(left)} half-written folders, to be swept",
        )
    )


def kill_at(
    school: School, points: Path, places: Sequence[str], run_id: int, *, before: str, after: str
) -> list[float]:
    """Have a run's trainer die at each place, look at the pointer each time, and let the run end; gives recoveries."""
    recovery_s = []
    for place in places:
        (points / place).write_text("kill")
        fence = school.read(run_id).fence
        killed_s = time.monotonic()
        learner = learners.start(school.settings, run_id, points)
        await_until(lambda fence=fence: school.read(run_id).fence > fence, "a learn child has the run")
        recovery_s.append(time.monotonic() - killed_s)
        assert learner.end() == -signal.SIGKILL, learner.told.read_text()
        assert school.serving() == (after if PLACES[place] else before), place
        count_versions_that_verify(school)
    assert learners.start(school.settings, run_id, points).end() == 0
    run = school.read(run_id)
    assert (run.state, run.verdict, run.version, school.serving()) == ("succeeded", "promote", after, after), run
    return recovery_s[1:]


@on("postgresql")
@pytest.mark.parametrize(
    "place", ["mid_state_write", "before_register", "before_promote"] if FULL else ["before_promote"]
)
def test_20_a_trainer_that_stood_still_beyond_its_lease_promotes_nothing_when_it_goes_on(
    school: School, points: Path, place: str
) -> None:
    (points / place).write_text("stop")
    asked = school.ask(strategy="last_stage")
    stale = learners.start(school.settings, asked.id, points)
    try:
        await_until(lambda: not (points / place).exists() and stale.is_stopped, f"the trainer stands still at {place}")
        stopped_s, fence = time.monotonic(), school.read(asked.id).fence
        second = learners.start(school.settings, asked.id, points)
        await_until(lambda: school.read(asked.id).fence > fence, "another learn child has the run")
        recovery_s = time.monotonic() - stopped_s
        assert (second.end(), second.told.read_text()) == (0, "promote")
        before = promotions(school)
        os.kill(stale.pid, signal.SIGCONT)
        assert stale.end() == 0
    finally:
        stale.kill()
    assert stale.told.read_text().startswith("lost"), stale.told.read_text()
    run = school.read(asked.id)
    assert (run.state, run.verdict, run.version) == ("succeeded", "promote", f"{MODEL}:2")
    num_versions = count_versions_that_verify(school)
    rows.check(
        rows.Row(
            number="20",
            fault=f"SIGSTOP of the trainer at {place} beyond its lease, another takes over, SIGCONT",
            database=dialect(school.sessions),
            submitted=1,
            recorded=promotions(school).count(f"run {asked.id}"),
            unexpected=len(promotions(school)) - len(before) + num_versions - 2,
            executions=run.fence,
            recovery_s=(recovery_s,),
            note="promotions by the stale trainer: 0",
        )
    )


# ---------------------------------------------------------------- a whole stack with two learn workers

PLAYBOOK = """\
[recipe]
strategy = "head"
epochs = {epochs}
[plan]
scarce_num = 10
scarce_per_class = 2
similar = 0.3
dissimilar = 0.0
[trigger]
is_on = {is_on}
min_new_labels = 9
min_new_share = 0.0
cooldown_s = 0
[live]
is_on = false
"""


@contextmanager
def learning_mill(sweep_s: float) -> Iterator[Mill]:
    """Run two learn workers, two upkeep workers and two beats, whose places can be armed."""
    home = Path(tempfile.mkdtemp(prefix="im-learn-"))
    (home / "points").mkdir()
    quick = {"run_lease_s": 6.0, "tick_s": 1.0, "torch_threads": 1, "batch_size": 16}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEMILL_TEST_FAILPOINTS", str(home / "points"))
        try:
            with open_mill(home, sweep_s=sweep_s, **quick) as opened:
                configure(opened)
                for role in ("learn", "upkeep"):
                    opened.stack.start(f"{role}-2", "worker", role, "--number", "2")
                opened.stack.start("beat-2", "beat")
                await_until(lambda: len(alive(opened, "learn")) == 2, "both learn workers are ready")
                yield opened
        finally:
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def mill() -> Iterator[Mill]:
    """A stack in which no sweep helps: what is given back is rung for, or nobody hears of it."""
    with learning_mill(sweep_s=60.0) as opened:
        yield opened


@pytest.fixture(scope="module")
def swept_mill() -> Iterator[Mill]:
    """A stack in which a dead worker's run is found soon."""
    with learning_mill(sweep_s=1.0) as opened:
        yield opened


def configure(mill: Mill, *, is_on: bool = False, epochs: int = 4) -> None:
    """Write the playbook: whether ticks start runs from now on, and how long training takes."""
    Path(mill.settings.playbook).write_text(PLAYBOOK.format(is_on=str(is_on).lower(), epochs=epochs))


def alive(mill: Mill, role: str) -> list[workers.Alive]:
    with session.reading(mill.sessions) as reading:
        return [one for one in workers.list_alive(reading, within_s=10.0) if one.role == role]


def teach(mill: Mill, model: str, num: int, *, first: int = 0) -> None:
    """Label `num` pictures of each class."""
    labels = []
    for number, label in enumerate(PETS):
        for seed in range(first, first + num):
            file = mill.images / f"{model}-{label}-{seed:04}.png"
            picture(label, 1000 * number + seed).save(file)
            labels.append(LabelledImage(reference=file.as_uri(), label=label, who="ada", source="test"))
    labeller = labelling.open_labeller(mill.settings, mill.sessions)
    with labeller.pool:
        receipt = labelling.record(labeller, model, labels)
    assert (receipt.num_labels, receipt.refused) == (len(labels), ())


def ask(mill: Mill, model: str) -> int:
    """Ask for a run that trains the last stage."""
    return mill.client.retrain(model=model, strategy="last_stage", reason="a test").id


def run_of(mill: Mill, run_id: int) -> runs.Run:
    with session.reading(mill.sessions) as reading:
        return runs.run(reading, run_id)


def await_run(mill: Mill, run_id: int, fact: Callable[[runs.Run], bool], what: str) -> runs.Run:
    await_until(lambda: fact(run_of(mill, run_id)), what)
    return run_of(mill, run_id)


def is_over(run: runs.Run) -> bool:
    return run.finished_at_s is not None


def start_again(mill: Mill, name: str) -> None:
    """Start a part that has ended, as a supervisor does."""
    part = mill.part(name)
    mill.stack.parts.remove(part)
    mill.stack._spawn(name, part.command)


@pytest.mark.full
def test_14_a_worker_told_to_stop_within_training_gives_the_run_back_and_another_goes_on_at_once(mill: Mill) -> None:
    teach(mill, "pets", 30)
    # Amid the record of an epoch, where nothing can be interrupted.
    place = mill.settings.home / "points" / "after_state_rename"
    place.write_text("sleep 2")
    asked = ask(mill, "pets")
    await_until(lambda: not place.exists(), "an epoch is being recorded")
    before = run_of(mill, asked)
    stopped = mill.part_of(before.lease_owner)
    stopped_s = time.monotonic()
    stopped.process.terminate()
    given_back = await_run(mill, asked, lambda run: run.lease_owner != before.lease_owner, "the run was given back")
    taken = await_run(mill, asked, lambda run: run.fence > before.fence, "the other worker has the run")
    recovery_s = time.monotonic() - stopped_s
    assert recovery_s < AT_ONCE_S
    stopped.process.wait(30)
    drained_s = time.monotonic() - stopped_s
    ended = await_run(mill, asked, is_over, "the run has ended")
    assert (ended.state, taken.attempts) == ("succeeded", 1), ended
    assert given_back.progress is not None
    with session.reading(mill.sessions) as reading:
        [trial] = [
            one for one in runs.steps(reading, asked)["train"].result["trials"] if one["strategy"] == "last_stage"
        ]
    kept = [epoch for epoch in trial["epochs"] if epoch["number"] == given_back.progress["number"]]
    assert kept[0].items() <= given_back.progress.items(), "the epoch that was whole was not trained again"
    rows.check(
        rows.Row(
            number="14",
            fault="SIGTERM amid training",
            database=dialect(mill.sessions),
            submitted=1,
            recorded=int(ended.verdict is not None),
            executions=ended.fence,
            recovery_s=(recovery_s,),
            note=f"the worker ended {drained_s:.1f} s after the signal; no whole epoch was trained again",
        )
    )


def test_19_two_schedulers_and_two_sweepers_never_have_two_runs_of_a_model(mill: Mill) -> None:
    watched_s, first = (20.0 if FULL else 5.0), 100
    before = run_since(mill, 0)
    teach(mill, "swap", 30, first=first)
    configure(mill, is_on=True)
    most, until_s = 0, time.monotonic() + watched_s
    # Until a second run has begun, too: where there is one only, nothing could overlap.
    while time.monotonic() < until_s or run_since(mill, before) < before + 2:
        assert time.monotonic() < until_s + PATIENCE_S, "no second run has begun"
        first += 30
        teach(mill, "swap", 3, first=first)
        most = max(most, num_active(mill, "swap"))
    configure(mill)
    await_until(lambda: num_active(mill, "swap") == 0, "the last run has ended")
    with session.reading(mill.sessions) as reading:
        fired = [run for run in reversed(runs.runs(reading, 99, model="swap")) if run.id > before]
        num_ticks = reading.scalar(select(func.sum(models.Tick.num_ticks)).where(models.Tick.model == "swap"))
    overlap_s = sum(max(0.0, (one.finished_at_s or 0.0) - two.created_at_s) for one, two in pairwise(fired))
    assert (most, overlap_s) == (1, 0.0), fired
    assert {run.asked_by for run in fired} == {"trigger"}
    rows.check(
        rows.Row(
            number="19",
            fault=f"two beats, a tick each second, {watched_s:.0f} s",
            database=dialect(mill.sessions),
            submitted=len(fired),
            recorded=sum(run.state == "succeeded" for run in fired),
            executions=sum(run.fence for run in fired) / len(fired),
            note=f"{num_ticks} ticks, at most {most} run at any time, overlap {overlap_s:.0f} s",
        )
    )


def run_since(mill: Mill, run_id: int) -> int:
    """Number the newest run, or give `run_id`."""
    with session.reading(mill.sessions) as reading:
        return max([run_id, *(run.id for run in runs.runs(reading, 1))])


def num_active(mill: Mill, model: str) -> int:
    active = select(func.count()).select_from(models.Run)
    with session.reading(mill.sessions) as reading:
        return reading.scalar(active.where(models.Run.model == model, models.Run.finished_at_s.is_(None))) or 0


def break_file(file: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(("how", "seed"), [(break_file, 20), (Path.unlink, 30)][: 2 if FULL else 1])
def test_22_a_promoted_file_that_breaks_leaves_the_old_version_serving_and_the_trouble_is_told(
    mill: Mill, how: Callable[[Path], None], seed: int
) -> None:
    old = mill.make_version("tiny", seed=seed)
    await_until(lambda: old.name in warm(mill), "the old version is warm")
    new = mill.make_version("tiny", seed=seed + 1, serve=False)
    references = mill.write_images(20, prefix="broken") * 10
    pinned = mill.client.submit(references, model="tiny")
    weights = Path(local_path(new.reference)) / checkpoints.WEIGHTS
    whole = weights.read_bytes()
    how(weights)
    with pytest.raises(CheckpointBroken):
        versions.promote(mill.sessions, new.name, reason="a test")
    move_pointer(mill, new)  # as if the file had broken just after that look
    await_until(lambda: told(mill).startswith(f"{new.name} cannot be loaded"), "the trouble is told")
    exact = mill.client.submit(references, model="tiny", version=old.name)
    stuck = mill.client.submit(references, model="tiny")
    jobs = [mill.client.wait(job.job_id, timeout_s=60) for job in (pinned, exact)]
    assert {(job.state, job.version) for job in jobs} == {("succeeded", old.name)}
    # What is warm needs no file: a version whose file is gone serves on until its worker ends.
    versions.rollback(mill.sessions, "tiny", reason="a test")
    waits = mill.client.status(stuck.job_id)
    assert (waits.version, waits.num_done, waits.is_final) == (new.name, 0, False)
    assert waits.note is not None
    assert f"The job waits for {new.name}" in waits.note
    # It waits for its version, whoever serves by now, and goes on once that is whole.
    weights.write_bytes(whole)
    ended = mill.client.wait(stuck.job_id, timeout_s=60)
    assert (ended.state, ended.version, ended.num_succeeded) == ("succeeded", new.name, len(references))
    await_until(lambda: told(mill) == "", "the trouble is over")
    Path(local_path(old.reference), checkpoints.WEIGHTS).unlink()
    after = mill.client.wait(mill.client.submit(references, model="tiny").job_id, timeout_s=60)
    assert (after.state, after.version) == ("succeeded", old.name)
    counted = [mill.positions(job.job_id) for job in (*jobs, after, ended)]
    rows.check(
        rows.Row(
            number="22",
            fault=f"a file {'changed' if how is break_file else 'deleted'} before it was loaded, one deleted when warm",
            database=dialect(mill.sessions),
            submitted=4 * len(references),
            recorded=sum(map(len, counted)),
            duplicates=sum(sum(one.values()) - len(one) for one in counted),
            note=f"{old.name} serves on; what is pinned to {new.name} waits until its file is back",
        )
    )


def move_pointer(mill: Mill, version: registry.Version) -> None:
    with session.transaction(mill.sessions) as transaction:
        seen = registry.serving(transaction, version.model)
        assert seen is not None
        registry.promote(transaction, version.model, version.id, seen_epoch=seen.epoch, who="ada", reason="a test")


def warm(mill: Mill) -> set[str]:
    return {name for one in alive(mill, "classify") for name in one.warm}


def told(mill: Mill) -> str:
    return "".join(one.message or "" for one in alive(mill, "classify"))


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_whose_workers_are_killed_at_random_moments_ends_with_the_same_verdict(
    swept_mill: Mill, seed: int
) -> None:
    mill = swept_mill
    chance = random.Random(seed)
    # A run is given up with its fifth dead worker, so four of five kills hit it, and one the worker that waits.
    victims = ["holder"] * 4 + ["idle"]
    chance.shuffle(victims)
    configure(mill, epochs=60)
    for model in (f"undisturbed-{seed}", f"disturbed-{seed}"):
        salt(mill, model)
        mill.make_version(model, seed=1)
        teach(mill, model, 30)
    whole = await_run(mill, ask(mill, f"undisturbed-{seed}"), is_over, "the undisturbed run has ended")
    assert whole.started_at_s is not None
    assert whole.finished_at_s is not None
    asked, recovery_s, fence = ask(mill, f"disturbed-{seed}"), [], 0
    for victim in victims:
        waiting_s = time.monotonic()
        held = await_run(mill, asked, lambda run, fence=fence: is_over(run) or run.fence > fence, "it was claimed")
        recovery_s.append(time.monotonic() - waiting_s)
        # The moment: any must do, but the first few are to come while there is a run to hit on a machine of any pace.
        time.sleep(chance.uniform(0.0, 0.8 / len(victims)) * (whole.finished_at_s - whole.started_at_s))
        if is_over(run_of(mill, asked)):
            break
        busy = mill.part_of(held.lease_owner).name
        name = busy if victim == "holder" else ({"learn", "learn-2"} - {busy}).pop()
        os.killpg(mill.part(name).process.pid, signal.SIGKILL)
        mill.part(name).process.wait()
        start_again(mill, name)
        fence = held.fence if victim == "holder" else held.fence - 1
    ended = await_run(mill, asked, is_over, "the run has ended")
    assert (ended.state, ended.verdict) == (whole.state, whole.verdict) == ("succeeded", "promote"), ended
    assert weights(mill, ended) == weights(mill, whole)
    assert ended.fence > 2, "else this proves little"
    rows.check(
        rows.Row(
            number="learn",
            fault=f"SIGKILL of one of two learn workers at random moments (seed {seed})",
            database=dialect(mill.sessions),
            submitted=1,
            recorded=int(ended.verdict is not None),
            executions=ended.fence,
            recovery_s=tuple(recovery_s[1:]),
            note="the same verdict and the same weights as undisturbed",
        )
    )


def salt(mill: Mill, model: str) -> None:
    """Let the same pictures be tested on, whatever the model is called."""
    with session.transaction(mill.sessions) as transaction:
        transaction.add(models.LabelSet(model=model, salt="school"))


def weights(mill: Mill, run: runs.Run) -> str:
    assert run.version is not None
    with session.reading(mill.sessions) as reading:
        version = registry.version(reading, run.version)
    return checkpoints.read_card(version.reference, version.sha256).weights_sha256
