"""A promotion reaches warm workers between sittings: nothing lost, nothing mixed, the old model let go."""

from sqlalchemy import select

from db import models, session
from tests.mills import Mill, await_until


def test_a_promotion_swaps_warm_workers_and_loses_nothing(mill: Mill) -> None:
    old, new = mill.make_version("swap", seed=2), mill.make_version("swap", seed=3, serve=False)
    references = mill.write_images(10, prefix="swap")
    pid = mill.child_pid("classify")
    from worker import versions

    jobs = []
    for number in range(120):
        jobs.append(mill.client.submit(references, model="swap"))
        if number == 40:
            versions.promote(mill.sessions, new.name, reason="swap test")
    ended = [mill.client.wait(job.job_id, timeout_s=60) for job in jobs]
    assert {status.state for status in ended} == {"succeeded"}
    assert {status.version for status in ended} == {old.name, new.name}
    # A job's version is the one of every outcome it has: none was mixed.
    for status in ended:
        assert {result.version for result in mill.client.results(status.job_id)} == {status.version}
    assert [status.version for status in ended] == sorted(status.version for status in ended)
    assert mill.child_pid("classify") == pid
    await_until(lambda: new.name in _warm(mill) and old.name not in _warm(mill), "the old version was released")


def test_jobs_that_follow_latest_move_with_the_pointer_and_exact_ones_do_not(mill: Mill) -> None:
    first = mill.make_version("swap", seed=4)
    references = mill.write_images(3, prefix="follow")
    pinned = mill.client.submit(references, model="swap", version=first.name)
    second = mill.make_version("swap", seed=5)
    exact = mill.client.submit(references, model="swap", version=first.name)
    latest = mill.client.submit(references, model="swap", version="latest")
    versions_of = {}
    for job in (pinned, exact, latest):
        mill.client.wait(job.job_id, timeout_s=60)
        versions_of[job.job_id] = {result.version for result in mill.client.results(job.job_id)}
    assert versions_of == {pinned.job_id: {first.name}, exact.job_id: {first.name}, latest.job_id: {second.name}}


def _warm(mill: Mill) -> set[str]:
    with session.reading(mill.sessions) as reading:
        rows = reading.scalars(select(models.Worker.warm).where(models.Worker.role == "classify"))
        return {name for warm in rows for name in warm}
