"""Other languages get what the client gets, by the examples as they lie there; and a job's end is told.

The stack is real, and so are its connections; the Internet that its workers find is made up below their sockets.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest

from db import callbacks, models, session
from docs.generate import schemas
from tests import internet, receivers, web
from tests.http.conftest import Served, serve
from tests.mills import Mill, await_until, open_mill

EXAMPLES = Path(__file__).parents[2] / "examples"
ADDRESS, HOST = "93.184.216.34", "hooks.example.org"
PATIENCE_S = 60.0
#: Example -> what runs it, if this machine has that.
HTTP = {
    "curl/classify.sh": "curl",
    "node/classify_http.mjs": "node",
    "java/Classify.java": "java",
}
QUEUE = {"node/classify_celery.mjs": "node", "python/bare_celery.py": sys.executable}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A running stack with its HTTP, and who is told of jobs' ends."""

    mill: Mill
    served: Served
    receiver: receivers.Receiver


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    home = Path(tempfile.mkdtemp(prefix="im-talk-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        authority = web.Authority(home)
        receiver = stack.enter_context(receivers.receiving(authority, HOST))
        routes = {f"{ADDRESS} 443": receiver.port}
        (home / "internet.json").write_text(json.dumps({"names": {HOST: [[ADDRESS]]}, "routes": routes}))
        shutil.copy(internet.__file__, home / "sitecustomize.py")
        patch.setenv("PYTHONPATH", str(home), prepend=os.pathsep)
        patch.setenv(internet.FILE, str(home / "internet.json"))
        patch.setenv("SSL_CERT_FILE", str(authority.file))
        told = {"callback_hosts": (HOST,), "callback_secret": receivers.SECRET}
        mill = stack.enter_context(open_mill(home, models=("tiny",), **told))
        served = stack.enter_context(serve(mill.settings))
        yield World(mill=mill, served=served, receiver=receiver)


def need(runtime: str) -> None:
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not on this machine, so its example was not tried")


def tried(example: str, *references: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run an example of that name, for a model, with nothing of this process's environment."""
    runtime = (HTTP | QUEUE)[example]
    need(runtime)
    file = str(EXAMPLES / example)
    command = [file] if example.endswith(".sh") else [runtime, file]
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [*command, *references],
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd="/",
    )


def ran(example: str, *references: str, **environ: str) -> list[dict[str, object]]:
    """Run an example; give the lines it prints."""
    done = tried(example, *references, **environ)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def over_http(world: World) -> dict[str, str]:
    return {"MILL_URL": f"http://127.0.0.1:{world.served.port}", "MILL_KEY": world.served.key("submit")}


def check_lines(world: World, lines: list[dict[str, object]], references: list[str]) -> None:
    """Compare with what the client says of the same images."""
    expected = {one.reference: one for one in world.mill.client.classify(references, model="tiny")}
    assert [line["reference"] for line in lines] == references
    for line in lines:
        known = expected[str(line["reference"])]
        assert (line["label"], bool(line["error"])) == (known.label, known.error is not None)
        assert line["score"] == pytest.approx(known.score, abs=1e-3)


@pytest.mark.parametrize("example", HTTP)
def test_an_example_over_http_gets_what_the_client_gets(world: World, example: str) -> None:
    references = [*world.mill.write_images(3, prefix=f'a "{Path(example).suffix}"'), "file:///nowhere/x.png"]
    lines = ran(example, *references, MODEL="tiny", **over_http(world))
    check_lines(world, lines, references)


@pytest.mark.parametrize("example", QUEUE)
def test_an_example_through_the_queue_gets_what_the_client_gets(world: World, example: str) -> None:
    references = [*world.mill.write_images(3, prefix=f"q{Path(example).suffix}"), "file:///nowhere/x.png"]
    lines = ran(example, *references, MODEL="tiny", BROKER_URL=world.mill.settings.broker_url)
    check_lines(world, lines, references)


@pytest.mark.parametrize("example", [*HTTP, *QUEUE])
def test_an_example_says_why_it_was_refused(world: World, example: str) -> None:
    environ = over_http(world) | {"BROKER_URL": world.mill.settings.broker_url}
    done = tried(example, "file:///x.png", MODEL="nobody", **environ)
    assert done.returncode != 0
    assert "nobody" in done.stderr + done.stdout


# ---------------------------------------------------------------- callbacks


def test_whoever_submits_over_http_is_told_of_the_end_and_can_verify_it(world: World) -> None:
    references = world.mill.write_images(2, prefix="told")
    wish = {"model": "tiny", "items": references, "callback": f"https://{HOST}/done"}
    submitted = world.served.calls("submit").post("/v1/jobs", wish)
    assert submitted.status == 202, submitted.body
    job_id = submitted.json["id"]
    await_until(lambda: any(post.told["data"]["job_id"] == job_id for post in world.receiver.posts), "the end is told")
    [post] = [one for one in world.receiver.posts if one.told["data"]["job_id"] == job_id]
    assert (post.path, post.told["type"], post.told["data"]["num_succeeded"]) == ("/done", "job.succeeded", 2)
    schema = next(document.schema for document in schemas.documents() if document.name == "callback.v1")
    jsonschema.Draft202012Validator(schema).validate(post.told)
    for verify in (verified_by_python, verified_by_node):
        assert verify(post, receivers.SECRET), verify
        assert not verify(post, "whsec_" + "AAAA" * 8), verify


def test_a_callback_to_elsewhere_is_refused_and_so_is_its_job(world: World) -> None:
    wish = {"model": "tiny", "items": ["/x.png"], "callback": "https://elsewhere.example.org/"}
    answer = world.served.calls("submit").post("/v1/jobs", wish)
    assert answer.problem() == (403, "callback_refused")
    assert "not one that the operator allows" in answer.json["detail"]


def test_a_slow_receiver_delays_neither_sweeps_nor_jobs(world: World) -> None:
    world.receiver.answers[:] = [(200, {}, 8.0)] * 12
    before = len(world.receiver.posts)
    references = world.mill.write_images(1, prefix="slow")
    ids = [
        world.mill.client.submit(references, model="tiny", callback=f"https://{HOST}/slow").job_id for _ in range(12)
    ]
    await_until(lambda: len(world.receiver.posts) > before, "a slow post is on its way")
    began_s, seen, took_s = time.monotonic(), set(), []
    while time.monotonic() - began_s < 7:
        seen.add(swept_at_s(world.mill))
        asked_s = time.monotonic()
        world.mill.client.classify(references, model="tiny")
        took_s.append(time.monotonic() - asked_s)
        time.sleep(0.1)
    times = sorted(seen)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    print(f"while receivers took 8 s: sweeps {max(gaps):.2f} s apart at most, classify {max(took_s):.2f} s at most")
    assert max(gaps) < 1.0 + 3.0, "sweeps are a second apart, on a machine that others use as well"
    world.receiver.is_over.set()  # let go of those that wait
    await_until(lambda: all(state(world.mill, one) == "sent" for one in ids), "all are told in the end")


def swept_at_s(mill: Mill) -> float:
    with session.reading(mill.sessions) as reading:
        return reading.get(models.Worker, "beat").heartbeat_at_s


def state(mill: Mill, job_id: str) -> str:
    with session.reading(mill.sessions) as reading:
        return callbacks.of_job(reading, uuid.UUID(job_id)).state


def verified_by_python(post: receivers.Post, secret: str) -> bool:
    program = (
        "import json, sys, base64; from verify_callback import is_ours; given = json.load(sys.stdin); "
        "print(is_ours(given['secret'], given['headers'], base64.b64decode(given['body'])))"
    )
    return asked([sys.executable, "-c", program], "python", post, secret) == "True"


def verified_by_node(post: receivers.Post, secret: str) -> bool:
    if shutil.which("node") is None:
        pytest.skip("node is not on this machine, so its verification was not tried")
    program = (
        "import { isOurs } from './verify_callback.mjs'; import { readFileSync } from 'node:fs';"
        "const given = JSON.parse(readFileSync(0));"
        "console.log(isOurs(given.secret, given.headers, Buffer.from(given.body, 'base64')));"
    )
    return asked(["node", "--input-type=module", "-e", program], "node", post, secret) == "true"


def asked(program: list[str], folder: str, post: receivers.Post, secret: str) -> str:
    given = {"secret": secret, "headers": post.headers, "body": base64.b64encode(post.body).decode()}
    done = subprocess.run(
        program, input=json.dumps(given), capture_output=True, text=True, timeout=30, check=True, cwd=EXAMPLES / folder
    )
    return done.stdout.strip()
