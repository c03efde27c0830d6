"""Takes a command line. Gives its process in a session of its own, stopped at the end with everything it started.

Knows nothing of what the process does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

#: seconds a process has to end by itself
GRACE_S = 15.0


@contextmanager
def running(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command beside us; its prints go where ours do."""
    told = {**os.environ, **environ}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=told, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            with suppress(ProcessLookupError):  # its session may outlive it
                os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """Give a TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
