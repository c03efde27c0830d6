"""Whatever a message holds: a value that says the same when it is sent on, or one refusal in a sentence."""

import json
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.garbage import damaged, json_values
from tests.properties import refusal, tried
from tests.worker.test_label_studio import annotation, choice, payload, task
from worker import forms, label_studio, learning_messages, messages
from worker.forms import MessageInvalid
from worker.learning_messages import LabelledImage, RefusedLabel

JOB = "11111111-2222-4333-8444-555555555555"
SUBMISSION = {
    "job_id": JOB, "model": "cats", "version": "cats:3", "priority": "bulk", "idempotency_key": "one", "top_k": 5,
    "deadline_s": 60.0, "num_items": 9, "first_position": 2, "caller": "ada", "callback": "https://hooks.example.org",
    "items": [{"reference": "file:///1.jpg", "key": "a"}, {"bytes": "aGk=", "key": "b"}, "file:///3.jpg"],
}  # fmt: skip
LABELS = {
    "model": "cats",
    "labels": [
        {"label": "cat", "reference": "file:///1.jpg", "who": "ada", "source": "cli", "group": "g", "key": "k"},
        {"label": "dog", "bytes": "aGk="},
    ],
}
RETRAIN = {
    "model": "cats", "asked_by": "ada", "reason": "new labels", "force": True, "strategy": "head", "base": "cats:1",
    "seed": 7,
}  # fmt: skip
KINDS = {
    "submission": (messages.Submission, SUBMISSION),
    "labels": (learning_messages.Labels, LABELS),
    "retrain": (learning_messages.Retrain, RETRAIN),
}


@pytest.mark.parametrize(("kind", "valid"), KINDS.values(), ids=KINDS)
def test_a_valid_message_is_taken(kind: Any, valid: dict[str, Any]) -> None:
    assert not refusal(kind.parse, valid, by=MessageInvalid)


@pytest.mark.parametrize(("kind", "valid"), KINDS.values(), ids=KINDS)
@tried(150)
@given(data=st.data())
def test_a_message_is_refused_in_a_sentence_or_says_the_same_when_it_is_sent_on(
    kind: Any, valid: dict[str, Any], data: st.DataObject
) -> None:
    wire = data.draw(damaged(valid) | json_values)
    if refusal(kind.parse, wire, by=MessageInvalid):
        return
    parsed = kind.parse(wire)
    # Allowing for no NaN, as a broker's JSON does.
    assert kind.parse(json.loads(json.dumps(parsed.as_json(), allow_nan=False))) == parsed
    if kind is messages.Submission:
        assert len(parsed.digest()) == 64


@tried(100)
@given(given=json_values)
def test_an_identifier_is_one_or_is_refused(given: Any) -> None:
    refusal(messages.parse_job_id, given, by=MessageInvalid)
    refusal(learning_messages.parse_run_id, given, by=MessageInvalid)


@pytest.mark.parametrize("name", ["x" * 100_000, "\ud800"], ids=["endless", "half a character"])
def test_a_refusal_can_be_told_to_anybody_whatever_it_quotes(name: str) -> None:
    told = refusal(messages.Submission.parse, {"job_id": JOB, "items": ["a"], name: 1}, by=MessageInvalid)
    assert told.startswith("Unknown field in a submission: ")
    assert len(told) <= forms.MAX_SENTENCE


def nested(room: int) -> Any:
    """Lists in each other, so deep that whoever walks through all of them has `room` calls left or fewer."""
    for depth in range(sys.getrecursionlimit(), room, -1):
        with suppress(RecursionError):
            json.loads("[" * depth + "]" * depth)
            return json.loads("[" * (depth - room) + "]" * (depth - room))
    raise AssertionError


@pytest.mark.parametrize("room", [0, 1, 3, 9])
def test_what_is_as_deep_as_it_can_be_read_is_refused_like_anything_else(room: int) -> None:
    deep = nested(room)
    assert refusal(messages.Submission.parse, {"job_id": JOB, "items": ["a"], "model": deep}, by=MessageInvalid)
    strange = payload(annotation=annotation(choice("cat", name=deep), updated_at=deep, id=deep, completed_by=deep))
    [row] = label_studio.event(strange, label_studio.Project()).rows
    assert (row.label, getattr(row, "key", None)) == ("cat", None)


PROJECTS = st.builds(
    label_studio.Project,
    image=st.sampled_from(["", "image", "picture"]),
    choices=st.sampled_from(["", "class", "other"]),
    local_files=st.sampled_from(["", "/photos", "s3://photos"]),
    uploads=st.sampled_from(["", "/uploads"]),
)
PAYLOADS = (
    payload(),
    payload("ANNOTATIONS_CREATED", annotation=[annotation(choice("cat")), annotation(choice("dog"))], task=[task()]),
    payload(task=task("/data/local-files/?d=a/b.jpg")),
    payload(task=task("/data/upload/2/c%20d.jpg"), annotation=annotation(choice("cat"), completed_by={"email": "a@b"})),
    payload("ANNOTATIONS_DELETED"),
)


@tried(300)
@given(given=damaged(st.sampled_from(PAYLOADS)) | json_values, project=PROJECTS)
@example(given=payload("\ud800"), project=label_studio.Project())
def test_a_payload_of_label_studio_gives_labels_refused_labels_or_one_refusal(
    given: Any, project: label_studio.Project
) -> None:
    if not refusal(label_studio.event, given, project, by=MessageInvalid):
        for row in label_studio.event(given, project).rows:
            check_row(row)


@tried(150)
@given(given=damaged({**task(), "annotations": [annotation(choice("cat")), annotation()]}), project=PROJECTS)
def test_a_task_of_an_export_gives_labels_refused_labels_or_one_refusal(
    given: Any, project: label_studio.Project
) -> None:
    def read() -> list[LabelledImage | RefusedLabel]:
        return list(label_studio.task_rows(given, project))

    if not refusal(read, by=MessageInvalid):
        for row in read():
            check_row(row)


def check_row(row: LabelledImage | RefusedLabel) -> None:
    """A label is one that intake would take; a refused one can be told to anybody."""
    if isinstance(row, LabelledImage):
        assert LabelledImage.parse(row.as_json()) == row
        return
    for text in (row.reference, row.label, row.message):
        assert len(text.encode()) < 20_000
