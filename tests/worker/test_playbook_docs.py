"""The playbook in docs/learning.md: it is complete, and what it calls the defaults are the code's."""

import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.learning.gate import GatePolicy
from pipeline.learning.plan import Thresholds
from pipeline.learning.recipes import Recipe
from pipeline.learning.similarity import ProbePolicy
from worker import playbook
from worker.playbook import DriftPolicy, LivePolicy, Playbook, TriggerPolicy

PAGE = Path(__file__).parents[2] / "docs/learning.md"
MARK = "<!-- playbook:"
#: TOML has no word for nothing, so this one is shown as a comment
UNSET = '# base = "imagenet:1"'
#: section -> what its fields are
SECTIONS = {
    "trigger": TriggerPolicy,
    "recipe": Recipe,
    "probe": ProbePolicy,
    "plan": Thresholds,
    "gate": GatePolicy,
    "live": LivePolicy,
    "drift": DriftPolicy,
}


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text().partition(MARK)[2].split("```")[1].removeprefix("toml\n")


@pytest.fixture(scope="module")
def tables(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def test_it_is_read_as_the_defaults(text: str, tmp_path: Path) -> None:
    file = tmp_path / "playbook.toml"
    file.write_text(text)
    known = playbook.read(file, "shoes")
    assert replace(known, probe={}, plan={}, gate={}) == Playbook(model="shoes")
    assert GatePolicy.from_dict(known.gate) == GatePolicy()
    assert Thresholds(**known.plan) == Thresholds()
    assert ProbePolicy(**{**known.probe, "shots": tuple(known.probe["shots"])}) == ProbePolicy()


@pytest.mark.parametrize("section", SECTIONS)
def test_it_names_every_field_of_every_section(tables: dict[str, Any], section: str) -> None:
    assert list(tables[section]) == [field.name for field in fields(SECTIONS[section])]


def test_it_names_every_section_and_what_stands_above_them(text: str, tables: dict[str, Any]) -> None:
    assert UNSET in text
    assert {*tables, "base", "model"} == {field.name for field in fields(Playbook)}


def test_one_models_table_holds_for_that_model_alone(text: str, tmp_path: Path) -> None:
    file = tmp_path / "playbook.toml"
    file.write_text(f"{text}\n[models.shoes]\n{UNSET.removeprefix('# ')}\n[models.shoes.recipe]\nepochs = 7\n")
    assert playbook.read(file, "shoes").base == "imagenet:1"
    assert [playbook.read(file, model).recipe.epochs for model in ("shoes", "hats")] == [7, None]
