"""Takes a version. Gives the proof that its checkpoint is whole, by a process of its own, which imports torch.

Knows nothing of requests.
"""

import json
import os
import subprocess
import sys

from db.registry import Version
from worker.settings import Settings
from worker.web.problems import RequestRefused

#: Seconds a proof may take: most of it is the import of torch.
PATIENCE_S = 120.0


def verify(settings: Settings, version: Version) -> None:
    """Load the checkpoint and compare what it says with what it said when it was saved. Raises `RequestRefused`."""
    command = [sys.executable, "-m", "worker", "models", "verify", version.name, "--json"]
    try:
        done = subprocess.run(  # noqa: S603 - our own command; the name is the ledger's
            command, env={**os.environ, **settings.as_env()}, capture_output=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        said = f"The checkpoint of {version.name} was not proved whole within {PATIENCE_S:.0f} s; try again."
        raise RequestRefused(503, "not_proved", said, retry_after_s=PATIENCE_S) from None
    if done.returncode:
        raise RequestRefused(409, "checkpoint_broken", f"{version.name} cannot serve. {_said(done.stderr)}")


def _said(stderr: bytes) -> str:
    try:
        return str(json.loads(stderr.splitlines()[-1])["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return "Its checkpoint could not be proved whole; `imagemill models verify` says why."
