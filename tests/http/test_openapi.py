"""What the OpenAPI document says holds: a machine that reads it finds nothing to complain of."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.http.calls import Calls
from worker.web import documents, proofs

#: Seconds in which requests are made up; and requests of each operation and kind, at least.
BUDGET_S, EXAMPLES = 25, 4
REPOSITORY = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("st")


@pytest.mark.timeout(240)
def test_a_machine_that_reads_the_document_finds_nothing(mill, tmp_path, monkeypatch):
    # Each proof is a process that imports torch, and the machine asks for dozens: test_learning has real ones.
    monkeypatch.setattr(proofs, "verify", lambda *_: None)
    key = mill.key("submit", "label", "operate")
    asked = [
        f"--max-examples={EXAMPLES}", f"--max-time={BUDGET_S}", "--checks=all", "--no-shrink", "--seed=1",
        "--continue-on-failure", "--request-timeout=60", "--warnings=off",
    ]  # fmt: skip
    done = subprocess.run(
        [PROGRAM, "run", f"http://127.0.0.1:{mill.port}/openapi.json", "-H", f"Authorization: Bearer {key}", *asked],
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1", "SCHEMATHESIS_HOOKS": "tests.http.formats", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_page_needs_no_internet_and_the_document_names_every_problem(mill):
    calls = Calls(port=mill.port)
    page = calls.get("/docs").body.decode()
    assert "://" not in page
    for name, kind in documents.FILES.items():
        assert name in page
        assert calls.get(f"/docs/{name}").headers["content-type"] == kind
    document = calls.get("/openapi.json").json
    assert "HTTPValidationError" not in json.dumps(document)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            problems = {status: one for status, one in operation["responses"].items() if status >= "400"}
            assert ("401" in problems) == path.startswith("/v1"), path
            assert all("application/problem+json" in one["content"] for one in problems.values()), path
