"""Killed processes cost time and nothing else: every item keeps exactly one outcome."""

import os
import signal
from pathlib import Path

from tests.mills import Mill, await_until, open_mill


def test_a_killed_child_loses_nothing(mill: Mill) -> None:
    references = mill.write_images(50, prefix="kill")
    job = mill.client.submit(references * 60, model="tiny")
    await_until(lambda: mill.client.status(job.job_id).num_done > 100, "the job is under way")
    os.kill(mill.child_pid("classify"), signal.SIGKILL)
    status = mill.client.wait(job.job_id, timeout_s=120)
    assert (status.state, status.num_succeeded) == ("succeeded", 3000)
    assert mill.positions(job.job_id) == dict.fromkeys(range(3000), 1)


def test_a_killed_worker_and_a_flushed_redis_lose_nothing(home: Path) -> None:
    with open_mill(home) as mill:
        references = mill.write_images(50, prefix="kill")
        job = mill.client.submit(references * 40, model="tiny")
        await_until(lambda: mill.client.status(job.job_id).num_done > 100, "the job is under way")
        worker = mill.part("classify")
        worker.process.kill()
        worker.process.wait()
        _flush(mill)
        mill.stack.parts.remove(worker)
        mill.stack.start("classify", "worker", "classify")
        status = mill.client.wait(job.job_id, timeout_s=120)
        assert (status.state, status.num_succeeded) == ("succeeded", 2000)
        assert mill.positions(job.job_id) == dict.fromkeys(range(2000), 1)


def _flush(mill: Mill) -> None:
    """Take every bell out of Redis, as a restart without its file would."""
    import redis

    with redis.Redis(unix_socket_path=mill.settings.broker_url.removeprefix("redis+socket://")) as connection:
        connection.flushall()
