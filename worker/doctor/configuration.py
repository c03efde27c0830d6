"""Takes the configuration that Celery ended up with. Gives whether a message can be lost or doubled by it.

Knows nothing of Redis. It looks at what holds, not at what was meant: Celery also reads variables of its own.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from worker import messages
from worker.doctor.findings import Finding, ok, unsafe, warning
from worker.settings import Settings

#: times that the visibility timeout must exceed what a task may take: a queue may hold it back meanwhile
TIMES = 5
#: variables that change Celery behind our back -> what they do
BEHIND_OUR_BACK = {
    "CELERY_BROKER_URL": "sends and takes messages elsewhere",
    "CELERY_BROKER_READ_URL": "takes messages elsewhere",
    "CELERY_BROKER_WRITE_URL": "sends messages elsewhere",
    "CELERY_RESULT_BACKEND": "answers callers elsewhere",
}
#: the pool that a device and a killed worker can live with -> why
POOL = {
    "worker_pool": ("prefork", "only prefork has time limits and survives a task that kills its process"),
    "worker_pool_start_method": ("spawn", "CUDA does not survive a fork"),
    "worker_concurrency": (1, "with two children a reconnect kills the worker, or runs a task twice"),
}


def check(conf: Any, settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look at the pool, the timeouts, the key prefix and the variables that Celery reads by itself."""
    yield from _pool(conf)
    yield _timeouts(conf)
    yield _prefix(conf)
    yield _variables(conf, settings, environ)
    yield cuda()


def _pool(conf: Any) -> Iterator[Finding]:
    wrong = {name: conf[name] for name, (right, _) in POOL.items() if conf[name] != right}
    if not wrong:
        yield ok("pool", "prefork, spawned, one child.")
    for name, value in wrong.items():
        right, why = POOL[name]
        yield unsafe("pool", f"{name} is {value!r}.", why=why, mend=f"set {name} to {right!r} in worker/app.py")


def _timeouts(conf: Any) -> Finding:
    broker, results = conf.broker_transport_options, conf.result_backend_transport_options
    named = {
        "broker_transport_options": broker.get("visibility_timeout"),
        "result_backend_transport_options": results.get("visibility_timeout"),
        "visibility_timeout": conf.get("visibility_timeout"),
    }
    least = TIMES * (conf.task_time_limit or 0)
    if len(set(named.values())) > 1 or None in named.values():
        told = ", ".join(f"{name} {value}" for name, value in named.items())
        return unsafe(
            "timeouts",
            f"The three visibility timeouts differ: {told}.",
            why="the shortest of all processes wins, and a task that outlives it is run again and again",
            mend="set all three to the same seconds in worker/app.py",
        )
    if named["visibility_timeout"] < least:
        return unsafe(
            "timeouts",
            f"The visibility timeout is {named['visibility_timeout']} s where a task may take {conf.task_time_limit}.",
            why="a task that outlives it is run again and again",
            mend=f"set it to at least {least} s (worker/messages.py)",
        )
    return ok("timeouts", f"All three visibility timeouts are {named['visibility_timeout']} s.")


def _prefix(conf: Any) -> Finding:
    prefix = conf.broker_transport_options.get("global_keyprefix")
    if prefix != messages.KEY_PREFIX:
        return unsafe(
            "key prefix",
            f"Keys in Redis begin with {prefix!r}, not {messages.KEY_PREFIX!r}.",
            why="another application on the same Redis would share the list of unacknowledged messages",
            mend="set global_keyprefix in worker/messages.py",
        )
    return ok("key prefix", f"Keys in Redis begin with {prefix}.")


def _variables(conf: Any, settings: Settings, environ: Mapping[str, str]) -> Finding:
    heard = [name for name in BEHIND_OUR_BACK if environ.get(name)]
    elsewhere = {conf.broker_url, conf.broker_read_url, conf.broker_write_url, conf.result_backend}
    if heard or elsewhere != {settings.broker_url}:
        told = "; ".join(f"{name} {BEHIND_OUR_BACK[name]}" for name in heard)
        return unsafe(
            "environment",
            f"{told or 'Celery was given another broker'}.",
            why="some processes would use another queue than IMAGEMILL_BROKER_URL names",
            mend=f"unset {', '.join(heard)}" if heard else "set IMAGEMILL_BROKER_URL alone",
        )
    return ok("environment", "No variable changes Celery behind our back.")


def cuda() -> Finding:
    """Look at whether this process, which starts others, has touched the device."""
    torch = sys.modules.get("torch")
    if torch is None:
        return ok("cuda", "The parent of the pool has not loaded torch.")
    if torch.cuda.is_initialized():
        return unsafe(
            "cuda",
            "CUDA is initialised in the parent of the pool.",
            why="it holds a context's memory on the device for nothing, and no forked child could use it",
            mend="import torch in the child alone (worker/runtime.py)",
        )
    return warning(
        "cuda",
        "The parent of the pool has loaded torch.",
        why="it takes hundreds of megabytes and seconds, and is one call from initialising CUDA",
        mend="import torch in the child alone (worker/runtime.py)",
    )


def user() -> Finding:
    """Look at whom the processes run as."""
    if os.geteuid() == 0:
        return warning(
            "user",
            "This runs as root.",
            why="images and weights of strangers are read by these processes",
            mend="run workers as a user without rights, as docker-compose.yml does",
        )
    return ok("user", "This runs as a user without special rights.")
