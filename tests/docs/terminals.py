"""A shell as a reader has one, for the commands of a page.

Takes blocks of commands. Gives what they printed. Knows nothing of imagemill.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

#: What the shell says when a block is done, with the block's exit code behind it.
DONE = "-- this block ended with"
#: Seconds a block may take on a busy two-core machine.
PATIENCE_S = 150.0
#: Seconds in which a shell that has nothing to do ends.
ENDING_S = 30.0


class Terminal:
    """A shell that keeps its folder and its variables from block to block."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["/bin/bash"],
            cwd=folder,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._unread = ""

    def run(self, commands: str) -> str:
        """Run a block to its end, and give what it printed; none of its commands may fail."""
        self.begin(f"failed=0\ntrap 'failed=$?' ERR\n{commands.rstrip()}\necho \"{DONE} $failed\"\n")
        told = self.read_until(DONE)
        code = self.read_until("\n").strip()
        assert code == "0", f"{commands}\nended with {code}:\n{told}"
        return told.removesuffix(DONE)

    def begin(self, commands: str) -> None:
        """Type commands, and do not wait."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(commands.encode())
        self._shell.stdin.flush()

    def read_until(self, mark: str) -> str:
        """Give what is printed up to and with a mark."""
        give_up_s = time.monotonic() + PATIENCE_S
        while mark not in self._unread:
            more = self._more(give_up_s - time.monotonic())
            assert more, f"waited in vain for {mark!r}; so far:\n{self._unread}"
            self._unread += more
        told, _, self._unread = self._unread.partition(mark)
        return told + mark

    def press_ctrl_c(self) -> None:
        """Interrupt what runs in the foreground."""
        os.killpg(self._shell.pid, signal.SIGINT)

    def close(self) -> None:
        """End the shell, and what is left in it."""
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        try:
            self._shell.wait(ENDING_S)
        except subprocess.TimeoutExpired:  # something of a test that failed still runs in it
            os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.wait()
        self._shell.stdout.close()

    def _more(self, patience_s: float) -> str:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._shell.stdout, selectors.EVENT_READ)
            if patience_s <= 0 or not waiting.select(patience_s):
                return ""
        return os.read(self._shell.stdout.fileno(), 65536).decode(errors="replace")


@contextmanager
def opened(folder: Path, environ: Mapping[str, str]) -> Iterator[Terminal]:
    """Open a terminal, and close it again."""
    terminal = Terminal(folder, environ)
    try:
        yield terminal
    finally:
        terminal.close()
