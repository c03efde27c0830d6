"""The ledger decides: away, asked ten times for the same, or with a serving pointer that moves all the time."""

import os
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from db import models, registry, session
from pipeline import images, references
from pipeline.serving.classifier import Classifier
from tests import servers
from tests.chaos import rows, trials
from tests.chaos.trials import Trial
from worker import versions
from worker.client import Refused


@pytest.mark.full
def test_row_16_work_that_ends_while_postgresql_is_down_is_recorded_later(home: Path) -> None:
    with servers.postgres(os.environ.get("IMAGEMILL_TEST_POSTGRES", "")) as server:
        server.execute("CREATE DATABASE mill")
        with trials.opened(home, database_url=server.url("mill")) as mill, trials.trial(mill) as trial:
            trial.arm("before_commit", "sleep 2")
            trial.submit(trial.slow(20), every_s=0.5)
            trial.await_reached("before_commit")
            trial.fault()
            server.stop()
            trial.wait(20)
            server.start()
            trial.drain()
            note = f"{len(trial.refused_s)} submits were refused meanwhile; {trial.ended()}"
            rows.check(trial.row("16", "PostgreSQL stopped for 20 s while jobs end", note=note))


def test_row_18_ten_callers_with_one_key_make_one_job(trial: Trial) -> None:
    key = f"{trial.name} {trial.began_s}"
    [job] = trial.slow(1)
    same = {"model": "tiny", "idempotency_key": key, "caller": trial.name}
    asked = [trial.callers.submit(trial.client.submit, job, **same) for _ in range(10)]
    receipts = {one.result().job_id for one in asked}
    trial.attempted = dict.fromkeys(receipts, 1)
    with pytest.raises(Refused) as refused:
        trial.client.submit(job * 2, **same)
    trial.drain()
    rows.check(trial.row("18", "ten submits at once with one key", note="one job; another body is refused"))
    assert len(receipts) == 1
    assert refused.value.kind == "idempotency_conflict"


@pytest.mark.timeout(600)
def test_row_23_a_pointer_that_moves_all_the_time_mixes_nothing(trial: Trial, *, is_full: bool) -> None:
    num_jobs = 2000 if is_full else 100
    pair = [trial.mill.make_version("swap", seed=seed, serve=False) for seed in (11, 12)]
    versions.promote(trial.mill.sessions, pair[0].name, reason="chaos")
    jobs, num_promotions = trial.quick(num_jobs), 0
    trial.submit(jobs[::2], every_s=0.05, model="swap")
    trial.submit(jobs[1::2], every_s=0.05, model="swap", version="latest")
    while not all(one.done() for one in trial.submits):
        num_promotions += 1
        versions.promote(trial.mill.sessions, pair[num_promotions % 2].name, reason="chaos")
        trial.wait(0.2)
    trial.drain()
    told, mixed = _compare(trial, pair)
    note = f"{num_promotions} promotions; outcomes that are not what their version says: {mixed}"
    rows.check(trial.row("23", "a promotion every 200 ms", note=note))
    assert mixed == 0
    assert told == {one.id for one in pair}, "else nothing was swapped"


def _compare(trial: Trial, pair: list[registry.Version]) -> tuple[set[int], int]:
    """Give the versions that were told, and the number of outcomes that differ from what their version says."""
    outcome, job = models.Outcome, models.Job
    chosen = select(outcome.version_id, outcome.reference, outcome.label, job.version_id)
    chosen = chosen.join(job, job.id == outcome.job_id).where(job.caller == trial.name)
    with session.reading(trial.mill.sessions) as reading:
        found = reading.execute(chosen).all()
    roots = references.Roots.parse(trial.mill.settings.allowed_roots)
    named = sorted({reference for _, reference, *_ in found})
    said = {(version.id, name): label for version in pair for name, label in _labels(version, named, roots)}
    assert len({said[version.id, name] for version in pair for name in named}) > 1, "else this proves nothing"
    mixed = [one for one in found if said[one[0], one[1]] != one[2] or one[3] not in (None, one[0])]
    return {version_id for version_id, *_ in found}, len(mixed)


def _labels(version: registry.Version, named: list[str], roots: references.Roots) -> list[tuple[str, str]]:
    classifier = Classifier.open(
        version.reference, sha256=version.sha256, device=torch.device("cpu"), precision="fp32", batch_size=8
    )
    decoded = [images.decode(references.fetch(one, roots, max_bytes=10**6), images.Limits()) for one in named]
    predicted = classifier.predict(torch.stack([classifier.preprocess.pixels(one) for one in decoded]), top_k=1)
    return [(name, one.label) for name, one in zip(named, predicted, strict=True)]
