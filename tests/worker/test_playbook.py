"""The file that says how models learn: read whole, overlaid per model, and refused in one sentence."""

from pathlib import Path

import pytest

from pipeline.errors import RecipeInvalid
from worker import playbook
from worker.errors import PlaybookInvalid
from worker.playbook import Playbook


def read(folder: Path, text: str, model: str = "pets") -> Playbook:
    file = folder / "playbook.toml"
    file.write_text(text)
    return playbook.read(file, model)


def test_without_a_file_everything_is_at_its_default() -> None:
    assert playbook.read("", "pets") == Playbook(model="pets")


def test_a_models_own_tables_go_over_the_files(tmp_path: Path) -> None:
    text = """
    base = "imagenet:1"
    [recipe]
    epochs = 3
    batch_size = 8
    [models.pets]
    classes = ["cat", "dog"]
    [models.pets.recipe]
    epochs = 5
    [models.other]
    base = "other:2"
    """
    pets, other = read(tmp_path, text), read(tmp_path, text, "other")
    assert (pets.recipe.epochs, pets.recipe.batch_size, pets.base) == (5, 8, "imagenet:1")
    assert pets.classes == ("cat", "dog")
    assert (other.recipe.epochs, other.base) == (3, "other:2")


def test_what_is_stored_with_a_run_reads_back_as_the_same_playbook(tmp_path: Path) -> None:
    tables = ('[trigger]\ncron = "0 3 * * 1"', "[gate]\nmargins = [[0, 0.1]]", '[recipe]\noptimizer = "AdamW"')
    text = "\n".join((*tables, "[plan]\nsimilar = 0.8"))
    known = read(tmp_path, text)
    stored = known.as_dict()
    assert Playbook.from_dict("pets", {name: value for name, value in stored.items() if name != "model"}) == known


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[recipe", "is not TOML"),
        ("bas = 'x:1'", "no pets.bas; did you mean base?"),
        ("base = 'x'", "give a version such as imagenet:1"),
        ("[trigger]\ncron = 'daily'", "not five fields of cron"),
        ("[trigger]\nmin_new_label = 3", "did you mean min_new_labels?"),
        ("[trigger]\nmin_new_labels = -3", "makes no sense"),
        ("[trigger]\nmin_new_labels = 'many'", "makes no sense"),
        ("[trigger]\nmatch = 'most'", "give any or all"),
        ("[live]\nwatch_s = 'long'", "makes no sense"),
        ("trigger = 3", "is a table"),
    ],
)
def test_a_playbook_that_makes_no_sense_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(PlaybookInvalid, match=sentence.replace("?", r"\?")):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "text", ["[recipe]\nloss = 'cross_entrpy'", "[recipe]\nloss = 'bce'\nlabel_smoothing = 0.1", "[recipe]\nlos = 1"]
)
def test_a_recipe_with_an_unknown_name_or_options_that_exclude_each_other_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeInvalid):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlaybookInvalid, match=r"nowhere\.toml cannot be read"):
        playbook.read(tmp_path / "nowhere.toml", "pets")
