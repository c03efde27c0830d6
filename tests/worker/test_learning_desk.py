"""A receipt for labels and a run's number are promises: the ledger has them, and the run will be rung for."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import labels, registry, runs, session
from tests import builders as images
from tests.worker import builders, teaching
from worker import labelling, learning_desk
from worker.learning_desk import LearningDesk
from worker.learning_messages import LabelsReceipt, RunStatus
from worker.messages import Refusal
from worker.settings import Settings

Sessions = sessionmaker[Session]
MODEL = builders.MODEL


@pytest.fixture
def rung() -> list[int]:
    """The runs that were rung for."""
    return []


@pytest.fixture
def desk(
    sessions: Sessions, photos: Path, pool: ThreadPoolExecutor, tmp_path: Path, rung: list[int]
) -> Iterator[LearningDesk]:
    """The desk of an intake child."""

    def ring_run(run_id: int) -> None:
        # Another session: what it sees is committed.
        assert learning_desk.status_of(sessions, run_id).state == "queued"
        rung.append(run_id)

    labeller = teaching.labeller(sessions, photos, pool)
    return LearningDesk(
        sessions=sessions,
        settings=Settings(home=tmp_path).resolved(),
        record=partial(labelling.record, labeller),
        ring_run=ring_run,
    )


def test_labels_that_are_not_refused_are_in_the_ledger(desk: LearningDesk, photos: Path) -> None:
    inline = base64.b64encode(images.png_bytes(seed=2)).decode()
    sent = [
        {"reference": teaching.image(photos / "1.png", seed=1), "label": "cat", "who": "ada"},
        {"reference": (photos / "gone.png").as_uri(), "label": "dog"},
        {"bytes": inline, "label": "dog"},
    ]
    receipt = learning_desk.label(desk, {"model": MODEL, "labels": sent})
    assert isinstance(receipt, LabelsReceipt), receipt
    assert (receipt.model, receipt.num_added, receipt.num_labels) == (MODEL, 2, 3)
    assert [(one.position, one.label, one.kind) for one in receipt.refused] == [(1, "dog", "missing")]
    assert sorted(teaching.known(desk.sessions).values()) == ["cat", "dog"]


def test_a_message_of_another_form_records_nothing(desk: LearningDesk, photos: Path) -> None:
    good = {"reference": teaching.image(photos / "1.png", seed=1), "label": "cat"}
    refused = learning_desk.label(desk, {"model": MODEL, "labels": [good, {"label": "dog"}]})
    assert refused == Refusal(kind="invalid", message="A labelled image needs either `reference` or `bytes`.")
    assert teaching.known(desk.sessions) == {}


def test_a_run_is_in_the_ledger_before_it_is_rung_for(
    desk: LearningDesk, version: registry.Version, rung: list[int]
) -> None:
    wish = {"model": MODEL, "asked_by": "ada", "reason": "new toys", "strategy": "head", "force": True, "seed": 7}
    status = learning_desk.retrain(desk, wish)
    assert isinstance(status, RunStatus), status
    assert (status.model, status.state, status.reason, status.asked_by) == (MODEL, "queued", "new toys", "ada")
    assert (status.verdict, status.version, status.error, status.is_final) == (None, None, None, False)
    assert rung == [status.id]
    with session.reading(desk.sessions) as reading:
        run = runs.run(reading, status.id)
    assert (run.is_forced, run.seed, run.base, run.playbook["recipe"]["strategy"]) == (True, 7, version.name, "head")
    assert learning_desk.run_status(desk, status.id) == status


@pytest.mark.usefixtures("version")
def test_a_model_has_one_run_however_often_it_is_asked_for(desk: LearningDesk, rung: list[int]) -> None:
    first, second = (learning_desk.retrain(desk, {"model": MODEL, "asked_by": who}) for who in ("ada", "grace"))
    assert first == second
    assert first.reason == "ada asked for it"
    assert set(rung) == {first.id}
    with session.transaction(desk.sessions) as transaction:
        runs.cancel(transaction, first.id)
    third = learning_desk.retrain(desk, {"model": MODEL})
    assert third.id != first.id
    assert learning_desk.run_status(desk, first.id).state == "cancelled"


@pytest.mark.usefixtures("version")
def test_a_run_that_has_begun_is_given_and_not_rung_for(desk: LearningDesk, rung: list[int]) -> None:
    first = learning_desk.retrain(desk, {"model": MODEL})
    with session.transaction(desk.sessions) as transaction:
        claimed = runs.claim(transaction, first.id, owner="ada", lease_s=60.0)
        runs.begin_step(transaction, first.id, claimed.fence, "snapshot")
    rung.clear()
    again = learning_desk.retrain(desk, {"model": MODEL})
    assert (again.id, again.state, again.step, rung) == (first.id, "running", "snapshot", [])


REFUSED = {
    "nothing to start from": ({"model": "dogs"}, "nothing_to_start_from", "No version of 'dogs' serves, so there are"),
    "an unknown version": ({"model": MODEL, "base": "cats:7"}, "unknown_version", "There is no version 'cats:7'."),
    "another form": ({"model": MODEL, "force": "yes"}, "invalid", "`force` must be true or false."),
}


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize(("wish", "kind", "said"), REFUSED.values(), ids=REFUSED)
def test_a_wish_that_cannot_be_granted_is_refused(
    desk: LearningDesk, wish: dict[str, object], kind: str, said: str, rung: list[int]
) -> None:
    refused = learning_desk.retrain(desk, wish)
    assert isinstance(refused, Refusal), refused
    assert refused.kind == kind
    assert refused.message.startswith(said)
    assert rung == []


def test_a_playbook_that_makes_no_sense_is_refused(desk: LearningDesk, tmp_path: Path) -> None:
    (tmp_path / "playbook.toml").write_text("[models.default.recipe]\nepoch = 3\n")
    settings = Settings(home=tmp_path, playbook=str(tmp_path / "playbook.toml")).resolved()
    wrong = LearningDesk(sessions=desk.sessions, settings=settings, record=desk.record, ring_run=desk.ring_run)
    refused = learning_desk.retrain(wrong, {"model": "default"})
    assert isinstance(refused, Refusal), refused
    assert refused.kind in ("playbook_invalid", "recipe_invalid")


@pytest.mark.parametrize(
    ("run", "kind", "said"),
    [
        (7, "unknown_run", "There is no run 7."),
        ("7", "invalid", "`run` must be a whole number from 1 to 2147483647."),
        (None, "invalid", "`run` must be a whole number from 1 to 2147483647."),
    ],
)
def test_a_question_about_no_run_is_refused(desk: LearningDesk, run: object, kind: str, said: str) -> None:
    assert learning_desk.run_status(desk, run) == Refusal(kind=kind, message=said)


def test_a_class_that_a_fixed_list_lacks_is_refused_alone(desk: LearningDesk, photos: Path) -> None:
    with session.transaction(desk.sessions) as transaction:
        labels.fix_classes(transaction, MODEL, ["cat"])
    sent = [
        {"reference": teaching.image(photos / f"{name}.png", seed=seed), "label": name}
        for seed, name in enumerate(("cat", "dog"))
    ]
    receipt = learning_desk.label(desk, {"model": MODEL, "labels": sent})
    assert (receipt.num_added, [one.kind for one in receipt.refused]) == (1, ["unknown_class"])
