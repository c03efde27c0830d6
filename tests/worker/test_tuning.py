"""A run whose recipe names two processes trains by torchrun, to what one process gives."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from db import session
from pipeline import checkpoints
from tests.worker.schools import QUICK, School, open_school


@pytest.fixture
def school(tmp_path: Path, sqlite_template: Path) -> Iterator[School]:
    """The database plays no part here, so there is one."""
    file = tmp_path / "ledger.sqlite"
    shutil.copyfile(sqlite_template, file)
    sessions = session.connect(f"sqlite:///{file}")
    with open_school(tmp_path / "mill", sessions) as opened:
        opened.teach(("cat", "dog", "hen"), 30)
        yield opened
    session.engine_of(sessions).dispose()


def test_two_processes_train_a_run_to_what_one_gives(school: School) -> None:
    alone = school.learn(strategy="last_stage")
    Path(school.settings.playbook).write_text(QUICK.replace("[recipe]\n", "[recipe]\nnum_processes = 2\n"))
    together = school.learn(strategy="last_stage")
    assert together.state == "succeeded", together.error_message
    [theirs] = [trial for trial in school.steps(together.id)["train"].result["trials"] if trial["epochs"]]
    [ours] = [trial for trial in school.steps(alone.id)["train"].result["trials"] if trial["epochs"]]
    assert theirs["settled"]["num_processes"] == 2
    assert [one["train_loss"] for one in theirs["epochs"][1:]] == pytest.approx(
        [one["train_loss"] for one in ours["epochs"][1:]], rel=1e-3
    )
    weights = [
        checkpoints.load(version.reference, sha256=version.sha256).network.state_dict()
        for version in (school.version(alone.version), school.version(together.version))
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=2e-3, rtol=1e-2)


def test_a_class_with_a_few_images_is_imprinted_beside_the_head_that_is_solved_anew(school: School) -> None:
    school.learn(strategy="head")
    school.teach(("fox",), 6)
    run = school.learn(strategy="head")
    trials = school.steps(run.id)["train"].result["trials"]
    assert [trial["strategy"] for trial in trials] == ["head", "head"]
    assert "imprinted" in trials[1]["notes"][0]
    assert run.version == "pets:2"
