"""Labels, runs and models over HTTP, through a real intake worker."""

import base64
import json
from pathlib import Path

import pytest
from sqlalchemy import select

from db import models, registry, session
from pipeline import seals
from tests import builders
from tests.db import builders as rows
from tests.worker.test_label_studio import annotation, choice, payload, task
from worker.messages import local_path
from worker.web import proofs

LINES = {"Content_Type": "application/jsonl"}


@pytest.fixture
def teacher(mill):
    """A caller that may label."""
    return mill.calls("label", name="ada")


@pytest.fixture
def operator(mill):
    """A caller that may do all that is not submitting or labelling."""
    return mill.calls("operate", name="boss")


def image(mill, name, seed):
    file = Path(mill.settings.allowed_roots[0]) / name
    file.write_bytes(builders.png_bytes(size=(32, 32), seed=seed))
    return str(file)


def known(mill, model):
    """What was said of the images of a model, in order: label, who and by which door."""
    row, name = models.Label, models.Class
    joined = select(name.name, row.who, row.source).join(
        name, (name.model == row.model) & (name.number == row.class_number)
    )
    with session.reading(mill.sessions) as reading:
        return [tuple(one) for one in reading.execute(joined.where(row.model == model).order_by(row.id))]


def test_labels_come_as_json_and_as_lines_and_what_is_refused_costs_the_others_nothing(mill, teacher):
    first, second = image(mill, "l1.png", 901), image(mill, "l2.png", 902)
    small = base64.b64encode(builders.png_bytes(size=(32, 32), seed=903)).decode()
    given = [
        {"label": "cat", "reference": first},
        {"label": "dog", "bytes": small, "who": "grace"},
        {"label": "cat", "reference": "/etc/hostname"},
    ]
    receipt = teacher.post("/v1/labels", {"model": "pets", "labels": given}).json
    assert (receipt["model"], receipt["num_added"]) == ("pets", 2)
    assert [(one["position"], one["kind"]) for one in receipt["refused"]] == [(2, "outside_roots")]
    lines = json.dumps({"label": "dog", "reference": second}).encode() + b"\n"
    assert teacher.post("/v1/labels?model=pets", lines, **LINES).json["num_added"] == 1
    assert known(mill, "pets") == [("cat", "ada", "http"), ("dog", "grace", "http"), ("dog", "ada", "http")]


def test_the_same_key_records_labels_once_also_when_others_corrected_them(mill, teacher):
    reference = image(mill, "k.png", 904)
    first = {"model": "keyed", "labels": [{"label": "cat", "reference": reference}]}
    second = {"model": "keyed", "labels": [{"label": "dog", "reference": reference}]}
    assert teacher.post("/v1/labels", first, Idempotency_Key='"monday"').json["num_added"] == 1
    assert teacher.post("/v1/labels", second).json["num_corrected"] == 1
    assert teacher.post("/v1/labels", first, Idempotency_Key='"monday"').json["num_unchanged"] == 1
    assert [label for label, _, _ in known(mill, "keyed")] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        pytest.param({"labels": [{"label": "cat"}]}, {}, "A labelled image needs either", id="neither way"),
        pytest.param({"labels": [{"label": "\n", "reference": "/1"}]}, {}, "labels.0.label: ", id="no line"),
        pytest.param({"labels": []}, {}, "labels: List should have at least 1", id="none"),
        pytest.param(b'{"label": "cat", "referents": "/1"}', LINES, "Line 1: referents: Extra", id="an unknown field"),
        pytest.param(b"\n", LINES, "There is nothing to label", id="an empty file"),
    ],
)
def test_what_is_no_label_is_said_precisely(teacher, body, headers, said):
    answer = teacher.post("/v1/labels", body, **headers)
    assert (answer.problem(), answer.json["detail"][: len(said)]) == ((422, "invalid"), said)


def test_label_studio_posts_its_annotations_with_a_key(mill, teacher):
    event = payload(task=task(image(mill, "s.png", 905)))
    answer = teacher.post("/v1/label-studio/studio", event)
    assert (answer.status, answer.json["num_added"]) == (200, 1)
    assert known(mill, "studio") == [("cat", "label-studio user 1", "label-studio")]
    other = teacher.post("/v1/label-studio", {"action": "PROJECT_CREATED"}).json
    assert (other["num_added"], other["note"]) == (0, "PROJECT_CREATED carries no labels.")
    assert teacher.post("/v1/label-studio/studio", {"annotation": 1}).problem() == (422, "invalid")
    lost = payload(annotation=annotation(choice("cat"), id=2), task=task("/etc/hostname"))
    assert teacher.post("/v1/label-studio/studio", lost).problem() == (422, "all_refused")
    assert mill.calls("submit").post("/v1/label-studio", event).problem() == (403, "scope_missing")


def test_a_run_is_asked_for_shown_listed_and_cancelled(mill, operator, teacher):
    asked = operator.post("/v1/runs", {"model": "tiny", "reason": "tried over HTTP"})
    assert (asked.status, asked.json["status"], asked.json["asked_by"]) == (202, "queued", "boss")
    number = asked.json["id"]
    assert operator.post("/v1/runs", {"model": "tiny"}).json["id"] == number
    assert teacher.get(f"/v1/runs/{number}").json == asked.json
    assert [one["id"] for one in teacher.get("/v1/runs?model=tiny&status=queued").json["data"]] == [number]
    assert teacher.post(f"/v1/runs/{number}/cancel").problem() == (403, "scope_missing")
    assert operator.post(f"/v1/runs/{number}/cancel").json["status"] == "cancelled"
    assert operator.post(f"/v1/runs/{number}/cancel").problem() == (409, "run_finished")
    assert operator.post("/v1/runs", {"model": "nothing"}).problem() == (409, "nothing_to_start_from")
    assert operator.get("/v1/runs/99999").problem() == (404, "unknown_run")


def test_a_version_is_promoted_once_it_has_proved_whole_and_taken_back(mill, operator, teacher, monkeypatch):
    assert [one["id"] for one in teacher.get("/v1/models/tiny/versions").json["data"]] == ["tiny:2", "tiny:1"]
    back = operator.post("/v1/models/tiny/rollback", {"reason": "worse on cats"})
    assert (back.status, back.json["serving"]) == (200, "tiny:1")
    last = teacher.get("/v1/models/tiny/history").json["data"][-1]
    assert (last["kind"], last["who"], last["reason"]) == ("rollback", "boss", "worse on cats")
    assert operator.post("/v1/models/tiny/rollback", {}).problem() == (409, "nothing_to_roll_back")
    with session.reading(mill.sessions) as reading:
        weights = Path(local_path(registry.version(reading, "tiny:2").reference)) / seals.WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    assert operator.post("/v1/models/tiny/promote", {"version": "tiny:2"}).problem() == (409, "checkpoint_broken")
    weights.write_bytes(whole)
    monkeypatch.setattr(proofs, "verify", lambda *_: None)  # a third proof would cost seconds and tell nothing new
    assert operator.post("/v1/models/tiny/promote", {"version": "tiny:2"}).json["serving"] == "tiny:2"
    assert operator.post("/v1/models/tiny/promote", {"version": "cats:2"}).problem() == (404, "unknown_version")
    assert teacher.post("/v1/models/tiny/promote", {"version": "tiny:1"}).problem() == (403, "scope_missing")


def test_the_gates_refusal_is_a_conflict_that_force_and_a_reason_override(mill, operator, monkeypatch):
    monkeypatch.setattr(proofs, "verify", lambda *_: None)  # it has no checkpoint
    with session.transaction(mill.sessions) as transaction:
        first = registry.register(transaction, rows.new_version("gated", source="import"))
        registry.register(transaction, rows.new_version("gated", source="run"))
        registry.promote(transaction, "gated", first.id, seen_epoch=0, who="ada", reason="")
    refused = operator.post("/v1/models/gated/promote", {"version": "gated:2"})
    assert refused.problem() == (409, "gate_refuses")
    assert "it never came before the gate" in refused.json["detail"]
    assert operator.post("/v1/models/gated/promote", {"version": "gated:2", "force": True}).status == 409
    forced = {"version": "gated:2", "force": True, "reason": "we looked at it ourselves"}
    assert operator.post("/v1/models/gated/promote", forced).json["serving"] == "gated:2"
