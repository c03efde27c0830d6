"""A Redis that dies, hangs, forgets, is full or out of reach costs time; what was acknowledged is recorded."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests import servers
from tests.chaos import proxy, rows, trials
from tests.chaos.trials import Trial
from tests.mills import Mill
from worker.settings import embedded_socket

#: seconds that a caller waits at most until it is told that Redis is away
SAID_S = 10.0


@contextmanager
def _admin(mill: Mill) -> Iterator["redis.Redis"]:
    with redis.Redis(unix_socket_path=str(embedded_socket(mill.settings.home))) as connection:
        yield connection


def test_row_6_a_redis_that_is_killed_under_load_is_waited_for(trial: Trial, *, is_full: bool) -> None:
    num_jobs, down_s = (200, 4.0) if is_full else (40, 0.5)
    trial.submit(trial.slow(num_jobs), every_s=0.1)
    trial.until(lambda: trial.num_recorded() > num_jobs // 10, "work was under way")
    trial.kill_redis()
    trial.wait(down_s)
    trial.start_redis()
    back_s = time.time()
    trial.drain()
    note = f"{trial.first_recorded_after(back_s):.1f} s after it was back; {trial.ended()}"
    rows.check(trial.row("6", f"SIGKILL of Redis under load, back after {down_s:g} s", note=note))


@pytest.mark.full
def test_row_7_a_submit_without_redis_says_so_soon_and_goes_through_later(trial: Trial) -> None:
    trial.kill_redis()
    trial.submit(trial.quick(50))
    trial.wait(60)
    trial.start_redis()
    trial.drain()
    note = f"each submit meanwhile said so within {max(trial.refused_s):.1f} s; {trial.ended()}"
    rows.check(trial.row("7", "no Redis for 60 s while callers submit", note=note))
    assert max(trial.refused_s) <= SAID_S


@pytest.mark.full
def test_row_8_bells_that_redis_forgot_are_rung_again(trial: Trial) -> None:
    worker = trial.mill.part("classify")
    trial.kept_down.add("classify")
    worker.process.terminate()
    worker.process.wait()
    trial.submit(trial.quick(100))
    trial.until(lambda: all(one.done() for one in trial.submits), "all was acknowledged")
    with _admin(trial.mill) as admin:
        assert admin.llen("imagemill:classify.tiny.bulk") > 0
        trial.fault()
        admin.flushall()
    trial.kept_down.clear()
    trial.drain()
    rows.check(trial.row("8", "FLUSHALL with 100 jobs queued", note="rung again 10 s after the first bell"))


def test_row_9_connections_that_are_cut_every_second_stall_nothing(trial: Trial, *, is_full: bool) -> None:
    num_cuts, pause_s, num_jobs = (30, 1.0, 500) if is_full else (5, 0.4, 60)
    trial.submit(trial.slow(num_jobs), every_s=num_cuts * pause_s * trials.NUM_CALLERS / num_jobs)
    with _admin(trial.mill) as admin:
        for _ in range(num_cuts):
            trial.wait(pause_s)
            trial.fault()
            for kind in ("normal", "pubsub"):
                admin.client_kill_filter(_type=kind)
    trial.drain()
    rows.check(trial.row("9", f"all connections cut, {num_cuts} times", note=trial.ended()))


def test_row_10_a_redis_that_hangs_is_waited_for_and_callers_are_told(trial: Trial, *, is_full: bool) -> None:
    num_jobs, hang_s = (100, 30.0) if is_full else (20, 3.0)
    trial.submit(trial.slow(num_jobs), every_s=hang_s * trials.NUM_CALLERS / num_jobs)
    trial.until(lambda: trial.num_recorded() > 0, "work was under way")
    # The worker wants to acknowledge while Redis hangs.
    trial.arm("after_infer", "sleep 1")
    trial.await_reached("after_infer")
    server = trial.mill.part("redis").process.pid
    trial.fault()
    os.kill(server, signal.SIGSTOP)
    trial.wait(hang_s)
    os.kill(server, signal.SIGCONT)
    back_s = time.time()
    trial.drain()
    told = f"callers were told within {max(trial.refused_s):.1f} s; " if trial.refused_s else ""
    note = f"{told}{trial.first_recorded_after(back_s):.1f} s after it went on; {trial.ended()}"
    rows.check(trial.row("10", f"SIGSTOP of Redis for {hang_s:g} s", note=note))
    assert max(trial.refused_s, default=0.0) <= SAID_S


@pytest.mark.full
def test_row_11_connections_that_are_half_open_are_given_up(home: Path) -> None:
    with servers.redis() as url, proxy.proxied(Path(url.removeprefix("redis+socket://"))) as network:
        broker_url = f"redis://127.0.0.1:{network.port}/0"
        with trials.opened(home, broker_url=broker_url) as mill, trials.trial(mill) as trial:
            trial.submit(trial.slow(50), every_s=1.0)
            trial.until(lambda: trial.num_recorded() > 0, "work was under way")
            trial.fault()
            network.mode = "blackhole"
            trial.wait(60)
            network.mode = "pass"
            back_s = time.time()
            trial.drain()
            after_s = trial.first_recorded_after(back_s)
            note = f"{after_s:.1f} s after the network was back; {trial.ended()}"
            rows.check(
                trial.row("11", "a network that swallows all for 60 s; what was open stays half-open", note=note)
            )
            assert after_s <= 90


def test_row_12_a_full_redis_refuses_and_no_worker_dies_of_it(trial: Trial, *, is_full: bool) -> None:
    num_jobs, full_s = (50, 10.0) if is_full else (20, 1.5)
    with _admin(trial.mill) as admin:
        trial.fault()
        admin.config_set("maxmemory", "1mb")
        with pytest.raises(redis.OutOfMemoryError):
            admin.set("imagemill:one-more", 1)
        trial.submit(trial.slow(num_jobs), every_s=0.1)
        trial.wait(full_s)
        admin.config_set("maxmemory", 0)
    trial.drain()
    rows.check(trial.row("12", f"Redis full for {full_s:g} s", note=trial.ended()))
    assert not trial.restarts
