"""Whoever writes messages from the schemas alone is understood, and whoever breaks them is told."""

import json
import math
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, TypeChecker, validators
from redis import Redis
from sqlalchemy.orm import Session, sessionmaker

from db import jobs, registry, session
from docs.generate import schemas
from tests.garbage import damaged
from tests.properties import refusal, tried
from tests.worker import builders
from tests.worker.test_any_message import LABELS, RETRAIN, SUBMISSION
from worker import callbacks, envelopes, intake, learning_messages, messages
from worker.client import Client, NotAcknowledged
from worker.forms import MessageInvalid

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"
DOCUMENTS = {document.name: document.schema for document in schemas.documents()}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "submit": (messages.Submission, SUBMISSION),
    "labels": (learning_messages.Labels, LABELS),
    "retrain": (learning_messages.Retrain, RETRAIN),
}
#: what a refusal says of a message that the schema takes: the rules beside it
BESIDE = {
    "submit": r"`num_items` must be|The key .* is given to more than one item|A message carries at most \d+ bytes",
    "labels": r"`label` must be one line|A message carries at most \d+ bytes",
    "retrain": "never",
}


def ecma_pattern(_: object, pattern: str, instance: object, __: object) -> Any:
    """Read a pattern as JSON Schema has it: `$` is the end, and not before a last line end as well."""
    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def is_whole(_: TypeChecker, instance: object) -> bool:
    """Python's wire tells 5.0 from 5, and so does imagemill."""
    return isinstance(instance, int) and not isinstance(instance, bool)


TYPES = Draft202012Validator.TYPE_CHECKER.redefine("integer", is_whole)
Validator = validators.extend(Draft202012Validator, {"pattern": ecma_pattern}, type_checker=TYPES)


def takes(name: str, wire: object) -> bool:
    return Validator(DOCUMENTS[name]).is_valid(wire)


def check(name: str, wire: object) -> None:
    Validator(DOCUMENTS[name]).validate(json.loads(json.dumps(wire)))


def is_json(wire: object) -> bool:
    """Whether any other language could write it: no NaN, no half characters."""
    with suppress(ValueError):
        json.dumps(wire, allow_nan=False, ensure_ascii=False).encode()
        return True
    return False


def instances(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Give values that a schema takes, for the words that ours are made of."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(instances, schema["anyOf"]))
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return st.one_of(*(MADE[kind](schema) for kind in kinds))


def _texts(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    pattern, most = schema.get("pattern", ""), schema.get("maxLength", 40)
    if pattern in ("", r"^[^\u0000]*$", r"\S"):
        letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
        text = st.text(letters, min_size=1, max_size=min(most, 40)) | st.just("x" * most)
        return text.filter(lambda made: re.search(pattern, made))
    return st.from_regex(pattern.replace("$", r"\Z"), fullmatch=True)


def _objects(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    known = {name: instances(one) for name, one in schema["properties"].items()}
    alternatives = [one["required"] for one in schema.get("oneOf", [{"required": []}])]
    shut = {name for names in alternatives for name in names}

    def with_(chosen: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        must = {*schema.get("required", ()), *chosen}
        return st.fixed_dictionaries(
            {name: one for name, one in known.items() if name in must},
            optional={name: one for name, one in known.items() if name not in must | shut},
        )

    return st.sampled_from(alternatives).flatmap(with_)


MADE: dict[str, Callable[[dict[str, Any]], st.SearchStrategy[Any]]] = {
    "string": _texts,
    "null": lambda _: st.none(),
    "boolean": lambda _: st.booleans(),
    "integer": lambda schema: st.integers(schema["minimum"], schema["maximum"]),
    "number": lambda schema: st.floats(
        schema["exclusiveMinimum"], schema["exclusiveMaximum"], exclude_min=True, exclude_max=True
    ),
    "array": lambda schema: st.lists(instances(schema["items"]), min_size=schema["minItems"], max_size=3),
    "object": _objects,
}


# ---------------------------------------------------------------- the files


def test_the_files_are_what_the_code_says() -> None:
    written = {file.stem: json.loads(file.read_text()) for file in FOLDER.glob("*.json")}
    assert written == DOCUMENTS, "run: python -m docs.generate.schemas docs/schemas"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_is_a_schema_that_names_itself(name: str) -> None:
    Draft202012Validator.check_schema(DOCUMENTS[name])
    assert DOCUMENTS[name]["$id"] == f"urn:imagemill:{name}"


def test_every_question_to_intake_has_both_its_schemas() -> None:
    tasks = {task.removeprefix("imagemill.") for task in messages.TASKS[messages.INTAKE_QUEUE]}
    assert tasks | {f"{task}.answer" for task in tasks} | {"callback.v1"} == DOCUMENTS.keys()


def test_a_page_of_results_is_as_long_as_intake_gives_it() -> None:
    assert DOCUMENTS["results.v1"]["properties"]["limit"]["maximum"] == messages.MAX_PAGE_ITEMS


def test_a_submission_may_have_every_field_that_intake_takes() -> None:
    assert DOCUMENTS["submit.v1"]["properties"].keys() == {field.name for field in fields(messages.Submission)}


# ---------------------------------------------------------------- what is taken and refused


@pytest.mark.parametrize("task", KINDS)
@tried(60)
@given(data=st.data())
def test_what_a_schema_takes_is_taken(task: str, data: st.DataObject) -> None:
    wire = data.draw(instances(DOCUMENTS[f"{task}.v1"]))
    assert takes(f"{task}.v1", wire)
    refused = refusal(KINDS[task][0].parse, wire, by=MessageInvalid)
    assert not refused or re.match(BESIDE[task], refused), refused


@pytest.mark.parametrize("task", KINDS)
@tried(150)
@given(data=st.data())
def test_what_a_schema_refuses_is_refused_unless_it_only_spells_otherwise_what_it_takes(
    task: str, data: st.DataObject
) -> None:
    kind, valid = KINDS[task]
    wire = data.draw(damaged(valid))
    assume(is_json(wire))
    refused = refusal(kind.parse, wire, by=MessageInvalid)
    if takes(f"{task}.v1", wire):
        assert not refused or re.match(BESIDE[task], refused), refused
    elif not refused:
        check(f"{task}.v1", kind.parse(wire).as_json())


@tried(100)
@given(data=st.data())
def test_a_run_or_a_job_is_named_as_its_schema_says(data: st.DataObject) -> None:
    wire = data.draw(damaged({"run": 7}))
    assume(is_json(wire) and isinstance(wire, dict) and wire.keys() == {"run"})
    assert takes("run_status.v1", wire) != bool(refusal(learning_messages.parse_run_id, wire["run"], by=MessageInvalid))
    wire = data.draw(instances(DOCUMENTS["status.v1"]))
    assert not refusal(messages.parse_job_id, wire["job_id"], by=MessageInvalid)


# ---------------------------------------------------------------- what is sent and answered


def test_what_the_client_sends_is_what_the_schemas_say(redis_url: str) -> None:
    job_id, reference = str(uuid.uuid4()), "file:///photos/1.jpg"
    given_ = {
        "version": "cats:3",
        "idempotency_key": "k",
        "deadline_s": 9.0,
        "caller": "shop",
        "callback": "https://a.b",
    }
    with Client(redis_url, timeout_s=0.05) as client:
        for ask in (
            lambda: client.submit([reference], **given_),
            lambda: client.submit_bytes([b"an image"]),
            lambda: client.status(job_id),
            lambda: list(client.results(job_id)),
            lambda: client.cancel(job_id),
            lambda: client.label([(reference, "cat")], group="g"),
            lambda: client.label_images([(b"an image", "cat")]),
            lambda: client.retrain("cats", reason="r", force=True, strategy="head", base="cats:1"),
            lambda: client.run_status(7),
        ):
            with pytest.raises(NotAcknowledged):
                ask()
        redis: Redis = client._replies.client
        sent = [envelopes.read(raw, "intake") for raw in redis.lrange("imagemill:intake", 0, -1)]
    for envelope in sent:
        check(envelope.task.removeprefix("imagemill."), envelope.kwargs)
    assert {envelope.task for envelope in sent} == messages.TASKS[messages.INTAKE_QUEUE]


def test_what_intake_answers_is_what_the_schemas_say(
    sessions: sessionmaker[Session], tmp_path: Path, version: registry.Version
) -> None:
    assert version.number == 1
    desk = builders.desk(sessions, tmp_path)
    sent = builders.wire()
    job_id = sent["job_id"]
    for task, reply in (
        ("submit", intake.submit(desk, sent)),
        ("submit", intake.submit(desk, {})),
        ("status", intake.status(desk, job_id)),
        ("status", intake.status(desk, "nobody")),
        ("results", intake.results(desk, job_id)),
        ("cancel", intake.cancel(desk, job_id)),
    ):
        check(f"{task}.v1.answer", messages.reply_as_json(reply))
    with session.reading(sessions) as reading:
        job = jobs.job(reading, uuid.UUID(job_id))
    check("callback.v1", json.loads(callbacks.message(intake.as_status(job, job.version))))


def test_answers_about_learning_are_what_the_schemas_say() -> None:
    refused = learning_messages.RefusedLabel(position=0, reference="r", label="l", kind="k", message="m")
    receipt = learning_messages.LabelsReceipt(model="cats", refused=(refused,))
    run = learning_messages.RunStatus(
        id=1, model="cats", state="queued", verdict=None, step=None, progress={"epoch": 1}, version=None, error=None,
        reason="r", asked_by="a", created_at_s=math.pi,
    )  # fmt: skip
    check("labels.v1.answer", messages.reply_as_json(receipt))
    check("retrain.v1.answer", messages.reply_as_json(run))
    check("run_status.v1.answer", messages.reply_as_json(run))
    outcome = messages.Result(position=0, key=None, reference="r", label="cat", score=0.5, top_k=[["cat", 0.5]])
    failed = messages.Result(
        position=1, key="k", reference="r", error=messages.ItemError(stage="fetch", kind="missing", message="m")
    )
    check("results.v1.answer", messages.reply_as_json([outcome, failed]))
    full = messages.Refusal(kind="queue_full", message="m", retry_after_s=3.0)
    check("submit.v1.answer", messages.reply_as_json(full))
    assert not takes("results.v1.answer", {"ok": [asdict(outcome) | {"top_k": [["cat", "0.5"]]}]})


# ---------------------------------------------------------------- the page


def test_the_page_links_the_schemas_of_every_task_and_nothing_that_is_not_there() -> None:
    page = (FOLDER.parent / "messages.md").read_text()
    for name in DOCUMENTS.keys() - {"callback.v1"}:
        assert f"(schemas/{name}.json)" in page
    for link in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (FOLDER.parent / link).exists(), link
    assert f"more than {messages.MAX_PART_ITEMS} items, or {messages.MAX_PART_BYTES // 1024} KiB" in page
