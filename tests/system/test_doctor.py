"""`imagemill doctor` on a running mill: it finds nothing unsafe but what the tests' own server does for speed."""

import json
import os
import subprocess

from tests.mills import PATIENCE_S, Mill


def test_doctor_passes_a_running_mill_with_warnings(mill: Mill, imagemill: list[str]) -> None:
    ran = subprocess.run(
        [*imagemill, "doctor", "--json"],
        env={**os.environ, **mill.settings.as_env()}, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    found = json.loads(ran.stdout)["findings"]
    unsafe = [one["subject"] for one in found if one["severity"] == "unsafe"]
    # The tests' PostgreSQL does without fsync.
    is_sqlite = mill.settings.database_url.startswith("sqlite")
    assert (ran.returncode, unsafe) == ((0, []) if is_sqlite else (2, ["ledger commits"])), ran.stderr
    warnings = {one["subject"] for one in found if one["severity"] == "warning"}
    assert {"redis version", "allowed roots"} <= warnings
    assert not warnings & {"cuda", "redis persistence", "redis access"}
    models = [one for one in found if one["subject"] == "model"]
    assert len(models) >= len(mill.settings.models)
    assert {one["severity"] for one in models} == {"ok"}
