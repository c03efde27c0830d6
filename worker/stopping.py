"""Takes the news that a worker is being stopped. Gives it to the worker's child, which alone can end its work early.

Knows nothing of tasks. On SIGTERM Celery waits for the task that runs, and only the pool's parent hears of it.
"""

import os
import signal
import threading
from typing import Any

from celery import signals

#: Sent by the pool's parent to its child when the worker is being stopped.
STOP_SIGNAL = signal.SIGUSR2

_is_stopping = threading.Event()
_controllers: list[Any] = []


@signals.worker_init.connect
def remember_controller(sender: Any = None, **_: object) -> None:
    """Keep, in the pool's parent, what knows the child's process id."""
    _controllers.append(sender)


@signals.worker_shutting_down.connect
def tell_child(**_: object) -> None:
    """Let the child stop at its next batch, so that others go on at once and the grace period suffices."""
    for controller in _controllers:
        for pid in (controller.pool.info or {}).get("processes", ()) if controller.pool else ():
            os.kill(pid, STOP_SIGNAL)


def listen() -> None:
    """Let this child hear of it from now on; until then the news ends the child, which has nothing to lose yet."""
    signal.signal(STOP_SIGNAL, lambda *_: _is_stopping.set())


def is_stopping() -> bool:
    """Tell whether the worker of this child is being stopped."""
    return _is_stopping.is_set()
