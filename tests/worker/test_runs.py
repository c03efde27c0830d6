"""A run, step by step, on a real ledger and a real, tiny network: what it leaves, and what cannot stop it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sqlalchemy.orm import Session, sessionmaker

from db import errors, gates, labels, registry, runs, session
from pipeline import checkpoints, stores
from pipeline.errors import SnapshotInvalid, StoreUnreachable, TrainingDiverged
from tests.worker.schools import MODEL, QUICK, School, StopsAfter, open_school
from worker import versions
from worker.learning import carrying
from worker.messages import local_path

PETS = ("cat", "dog", "hen")


@pytest.fixture
def school(tmp_path: Path, sessions: sessionmaker[Session]) -> Iterator[School]:
    """A model whose labels of three classes suffice."""
    with open_school(tmp_path / "mill", sessions) as opened:
        opened.teach(PETS, 30)
        yield opened


def test_a_run_makes_labels_into_a_version_that_serves_with_every_number_in_sql(school: School) -> None:
    run = school.learn(strategy="last_stage")
    assert (run.state, run.verdict, run.version) == ("succeeded", "promote", f"{MODEL}:1"), run.error_message
    assert school.serving() == run.version
    assert list(school.steps(run.id)) == ["snapshot", "plan", "train", "evaluate", "gate", "report"]
    version = school.version(f"{MODEL}:1")
    card = checkpoints.read_card(version.reference, version.sha256)
    assert card.classes == PETS
    assert version.metrics["accuracy"] > 0.8
    assert version.parent_id == school.version("base:1").id
    assert card.snapshot == school.steps(run.id)["snapshot"].result["digest"]
    with session.reading(school.sessions) as reading:
        gate = gates.by_run(reading, run.id)
        [promotion] = registry.history(reading, MODEL)
    assert gate.verdict == "promote"
    assert {check["name"] for check in gate.numbers["checks"]} >= {"integrity"}
    assert (promotion.who, promotion.gate_id, promotion.is_forced) == (f"run {run.id}", gate.id, False)
    page = stores.read_file(*run.report.rsplit("/", 1)).decode()
    assert f"{MODEL}:1" in page
    assert not (school.workshop.run_folder(run.id)).exists()


def test_head_only_leaves_every_tensor_of_the_backbone_as_it_was_and_the_card_proves_it(school: School) -> None:
    run = school.learn(strategy="head")
    trained, base = (school.version(name) for name in (run.version, "base:1"))
    ours, theirs = (
        checkpoints.load(version.reference, sha256=version.sha256).network.state_dict() for version in (trained, base)
    )
    moved = [name for name in theirs if ours[name].shape != theirs[name].shape or not ours[name].equal(theirs[name])]
    assert {name.rpartition(".")[0] for name in moved} == {"14"}  # the head
    card = checkpoints.read_card(trained.reference, trained.sha256)
    assert card.frozen_sha256 is not None
    checkpoints.verify(trained.reference, trained.sha256)


def test_a_run_that_is_stopped_again_and_again_goes_on_where_it_was_to_the_same_weights(
    school: School, tmp_path: Path
) -> None:
    whole = school.learn(strategy="last_stage")
    # The first version must not serve, or the second would be compared with it: the weights are what counts here.
    asked = school.ask(strategy="last_stage")
    seen: dict[str, float] = {}
    for patience in (1, 2, 4, 6, 8, 10, 14, 20, 10_000):
        school.carry_out(asked.id, is_stopping=StopsAfter(patience))
        steps = school.steps(asked.id)
        for name, finished_s in seen.items():
            assert steps[name].finished_at_s == finished_s, f"{name} was done twice"
        seen |= {name: row.finished_at_s for name, row in steps.items() if row.finished_at_s is not None}
        if school.read(asked.id).state == "succeeded":
            break
    broken = school.read(asked.id)
    assert broken.state == "succeeded", broken
    cards = [
        checkpoints.read_card(version.reference, version.sha256)
        for version in (school.version(whole.version), school.version(broken.version))
    ]
    assert cards[0].weights_sha256 == cards[1].weights_sha256


def test_a_cancelled_run_ends_cancelled_and_the_champion_stays(school: School) -> None:
    school.learn(strategy="head")
    asked = school.ask(strategy="last_stage")
    claimed = school.claim(asked.id)
    watch = school.watch(claimed)
    with session.transaction(school.sessions) as transaction:
        assert runs.cancel(transaction, asked.id) == "running"
    watch.tend()  # what the heartbeat does every two seconds
    assert carrying.carry_out(school.workshop, watch) == "cancelled"
    assert school.read(asked.id).state == "cancelled"
    assert school.serving() == f"{MODEL}:1"


def test_a_cancel_that_the_heartbeat_has_not_heard_of_promotes_nothing(school: School) -> None:
    asked = school.ask(strategy="head")
    watch = school.watch(school.claim(asked.id))
    with session.transaction(school.sessions) as transaction:
        runs.cancel(transaction, asked.id)
    assert carrying.carry_out(school.workshop, watch) == "cancelled"  # without a beat
    assert (school.read(asked.id).state, school.serving()) == ("cancelled", None)


def to_the_gate(whole: carrying.Carrying) -> None:
    """Do every step but the report."""
    for name in ("snapshot", "plan", "train", "evaluate", "gate"):
        whole._do(name, getattr(whole, f"_{name}"))


def test_a_cancel_after_the_verdict_comes_too_late(school: School) -> None:
    asked = school.ask(strategy="head")
    watch = school.watch(school.claim(asked.id))
    to_the_gate(carrying.Carrying(school.workshop, watch))
    with session.transaction(school.sessions) as transaction:
        runs.cancel(transaction, asked.id)
    watch.tend()
    assert carrying.carry_out(school.workshop, watch) == "promote"
    assert (school.read(asked.id).state, school.serving()) == ("succeeded", f"{MODEL}:1")


def test_a_verdict_stands_where_whoever_takes_over_can_make_no_page_of_it(school: School) -> None:
    asked = school.ask(strategy="head")
    watch = school.watch(school.claim(asked.id))
    to_the_gate(carrying.Carrying(school.workshop, watch))
    shutil.rmtree(local_path(school.version("base:1").reference))
    assert carrying.carry_out(school.workshop, watch) == "promote"
    run = school.read(asked.id)
    assert (run.state, run.report, school.serving()) == ("succeeded", None, f"{MODEL}:1")


def test_who_lost_the_lease_writes_nothing_more_and_promotes_nothing(school: School) -> None:
    asked = school.ask(strategy="head")
    stale = school.watch(school.claim(asked.id, lease_s=-1.0))
    assert school.claim(asked.id, owner="bob") is not None
    assert carrying.carry_out(school.workshop, stale).startswith("lost")
    assert school.steps(asked.id) == {}
    assert school.serving() is None


def test_a_plan_that_says_no_trains_nothing_and_leaves_its_reasons(
    tmp_path: Path, sessions: sessionmaker[Session]
) -> None:
    with open_school(tmp_path / "mill", sessions, playbook='base = "base:1"') as school:
        school.teach(PETS, 12, painted_as="cat")
        run = school.learn()
        assert (run.state, run.verdict, run.version) == ("succeeded", "not_recommended", None)
        assert run.plan["plan"]["instead"]
        assert run.report is not None
        forced = school.learn(is_forced=True)
        assert forced.version == f"{MODEL}:1"


def test_a_class_that_appears_is_appended_and_no_number_moves(school: School) -> None:
    school.learn(strategy="head")
    school.teach(("fox",), 30)
    run = school.learn(strategy="head")
    old, new = school.version(f"{MODEL}:1"), school.version(run.version)
    assert [checkpoints.read_card(one.reference, one.sha256).classes for one in (old, new)] == [PETS, (*PETS, "fox")]
    assert run.verdict == "promote"
    with session.reading(school.sessions) as reading:
        assert gates.by_run(reading, run.id).numbers["numbers"]["new_classes"] == ["fox"]


def test_a_removed_class_keeps_its_number_and_never_wins(school: School) -> None:
    with session.transaction(school.sessions) as transaction:
        labels.remove_class(transaction, MODEL, "dog")
    run = school.learn(strategy="head")
    version = school.version(run.version)
    card = checkpoints.read_card(version.reference, version.sha256)
    assert (card.classes, card.masked) == (PETS, ("dog",))


def test_a_class_with_too_few_images_is_left_out_by_name_and_holds_nothing_up(school: School) -> None:
    school.teach(("fox",), 1)
    run = school.learn(strategy="head")
    assert (run.state, run.verdict) == ("succeeded", "promote")
    assert school.steps(run.id)["snapshot"].result["left_out"] == ["fox"]


def test_images_that_are_gone_or_changed_are_named_and_the_rest_is_learned_from(school: School) -> None:
    gone, changed = (school.folder / f"cat-{number:04}.png" for number in (3, 4))
    gone.unlink()
    changed.write_bytes((school.folder / "dog-0003.png").read_bytes())
    run = school.learn(strategy="head")
    assert run.state == "succeeded"
    page = stores.read_file(*run.report.rsplit("/", 1)).decode()
    assert "cat-0003.png" in page
    assert "cat-0004.png" in page


def test_labels_of_one_class_end_the_run_with_a_sentence(tmp_path: Path, sessions: sessionmaker[Session]) -> None:
    with open_school(tmp_path / "mill", sessions) as school:
        school.teach(("cat",), 20)
        run = school.learn()
        assert (run.state, run.error_kind) == ("failed", "snapshot_invalid")
        assert "at least two classes" in run.error_message
        assert school.serving() is None


def test_a_base_whose_weights_were_changed_fails_the_run_and_says_so(school: School) -> None:
    reference = school.version("base:1").reference
    weights = Path(reference.removeprefix("file://")) / checkpoints.WEIGHTS
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    run = school.learn()
    assert (run.state, run.error_kind) == ("failed", "checkpoint_broken")
    assert "was changed" in run.error_message


@pytest.mark.parametrize(
    "recipe",
    ['optimizer = "Adamm"', 'optimizer = "LBFGS"', 'optimizer = "SGD"\noptimizer_options = { momentm = 0.9 }'],
)
def test_an_optimizer_that_is_none_fails_the_run_at_once_and_says_so(school: School, recipe: str) -> None:
    Path(school.settings.playbook).write_text(QUICK.replace("[recipe]\n", f"[recipe]\n{recipe}\n"))
    run = school.learn()
    assert (run.state, run.error_kind) == ("failed", "recipe_invalid"), run
    assert school.serving() is None


def test_a_run_may_start_from_a_loosened_champion(school: School) -> None:
    school.learn(strategy="head")
    tables = '[recipe]\nstart = "champion"\nshrink_perturb = 0.5\n'
    Path(school.settings.playbook).write_text(QUICK.replace("[recipe]\n", tables))
    run = school.learn(strategy="last_stage")
    assert run.state == "succeeded", run.error_message
    assert school.version(run.version).parent_id == school.version(f"{MODEL}:1").id


def test_a_run_removes_what_others_left_that_have_ended_and_nothing_else(school: School) -> None:
    given_up, asked = school.ask(), school.ask(model="other", base="base:1")
    with session.transaction(school.sessions) as transaction:
        runs.cancel(transaction, given_up.id)
    folders = [school.workshop.folder / name for name in (str(given_up.id), str(asked.id), "of somebody else")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "state.pt").write_bytes(b"half a state")
    assert school.learn(strategy="head").state == "succeeded"
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_a_second_wish_finds_the_run_that_is_there(school: School) -> None:
    first, second = school.ask(), school.ask()
    assert first.id == second.id


def test_a_version_that_the_gate_held_serves_only_by_force_and_with_a_reason(school: School) -> None:
    school.learn(strategy="head")
    held = school.learn(strategy="head", seed=1)
    assert held.verdict in ("hold", "underpowered")
    with pytest.raises(errors.GateRefuses, match=held.verdict):
        versions.promote(school.sessions, held.version, reason="because")
    with pytest.raises(errors.GateRefuses, match="--reason"):
        versions.promote(school.sessions, held.version, reason=" ", is_forced=True)
    versions.promote(school.sessions, held.version, reason="seen by eye", is_forced=True)
    with session.reading(school.sessions) as reading:
        newest = registry.history(reading, MODEL)[-1]
    assert (newest.version, newest.is_forced, newest.reason) == (held.version, True, "seen by eye")


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (SnapshotInvalid("x"), "snapshot_invalid"),
        (TrainingDiverged("nan"), "training_diverged"),
        (OSError(28, "No space left on device"), "no_space"),
        (torch.OutOfMemoryError("x"), "device_memory"),
        (MemoryError(), "host_memory"),
        (KeyError("x"), "unexpected"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_goes_wrong_becomes_a_kind_and_a_sentence(wrong: Exception, kind: str) -> None:
    failure = carrying.failure_of(wrong)
    assert failure.kind == kind
    assert failure.message


def test_a_full_disk_is_named_however_deep_it_lies() -> None:
    full = StoreUnreachable("could not be written")
    full.__cause__ = OSError(28, "No space left on device")
    assert carrying.failure_of(full).kind == "no_space"
