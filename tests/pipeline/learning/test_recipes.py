"""A recipe says what is wrong with it, and settles to the table of the playbook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RecipeInvalid
from pipeline.learning import recipes, rules
from pipeline.learning.recipes import Recipe, Settled


def settled(num_train: int = 3_000, num_classes: int = 12, kind: str = "convolution", **given: object) -> Settled:
    recipe = Recipe.from_dict(given)
    return recipes.settle(recipe, num_train=num_train, num_classes=num_classes, kind=kind, strategy="all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"lerning_rate": 0.1}, "no field 'lerning_rate'; did you mean learning_rate?"),
        ({"zzz": 1}, "no field 'zzz'."),
        ({"loss": "focall"}, "did you mean focal?"),
        ({"strategy": "some"}, "it must be one of auto, head, last_stage, all"),
        ({"schedule": 3}, "schedule is 3"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"learning_rate": "fast"}, 'or "auto"'),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": True}, "learning_rate is True"),
        ({"epochs": 2.5}, "whole number"),
        ({"epochs": 0}, "1..10000"),
        ({"batch_size": None}, "batch_size is None"),
        ({"batch_size": "auto"}, "batch_size is 'auto'"),
        ({"ema": "on"}, "ema is 'on'"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"ema": 0}, "ema is 0"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
        ({"horizontal_flip": "yes"}, "true or false"),
        ({"optimizer": 3}, "optimizer is 3"),
        ({"optimizer_options": [1]}, "must map names"),
        ({"num_processes": 0}, "1..64"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_named(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeInvalid) as refused:
        Recipe.from_dict(given)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"loss": "bce", "label_smoothing": 0.1},
        {"loss": "bce", "imbalance": "adjust"},
        {"focal_gamma": 2.0},
        {"loss": "bce", "focal_gamma": 2.0},
        {"loss": "weighted_cross_entropy", "imbalance": "adjust"},
        {"strategy": "head", "mixup": 0.2},
        {"strategy": "head", "augmentation": "trivial"},
        {"strategy": "head", "layer_decay": 0.75},
        {"strategy": "head", "backbone_scale": 0.1},
        {"strategy": "head", "num_processes": 2},
        {"shrink_perturb": 0.5},
        {"optimizer_options": {"momentum": 0.8}},
        {"optimizer": "SGD", "optimizer_options": {"lr": 0.1}},
        {"optimizer": "SGD", "optimizer_options": {"weight_decay": 0.1}},
        {"augmentation": "none", "horizontal_flip": True},
    ],
    ids=str,
)
def test_options_that_exclude_each_other_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(RecipeInvalid):
        Recipe.from_dict(given)


@pytest.mark.parametrize(
    "given",
    [
        {"loss": "focal", "focal_gamma": 1.0, "label_smoothing": 0.1, "mixup": 0.1},
        {"loss": "bce", "label_smoothing": 0},
        {"start": "champion", "shrink_perturb": 0.5},
        {"strategy": "head", "mixup": 0, "augmentation": "none"},
        {"optimizer": "SGD", "optimizer_options": {"momentum": 0.8}},
        {"imbalance": "adjust", "loss": "focal"},
    ],
    ids=str,
)
def test_options_that_go_together_are_taken(given: dict[str, object]) -> None:
    assert Recipe.from_dict(given)


def test_auto_leaves_a_field_open() -> None:
    assert Recipe.from_dict(dict.fromkeys(rules.OPEN, "auto")) == Recipe()
    assert Recipe.from_dict(dict.fromkeys(rules.OPEN)) == Recipe()


@pytest.mark.parametrize(
    "given", [{}, {"optimizer": "Adam", "optimizer_options": {"betas": [0.8, 0.9], "amsgrad": True}}], ids=str
)
def test_recipes_survive_json(given: dict[str, object]) -> None:
    recipe = Recipe.from_dict(given)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    made = settled(**given)
    assert Settled.from_dict(json.loads(json.dumps(made.as_dict()))) == made


@pytest.mark.parametrize(
    ("num_train", "epochs"), [(64, 100), (640, 100), (1_000, 64), (6_400, 10), (1_000_000, 10), (0, 100)]
)
def test_epochs_spend_a_budget_of_samples(num_train: int, epochs: int) -> None:
    assert settled(num_train).epochs == epochs
    assert settled(num_train, epochs=3).epochs == 3


TABLE: list[tuple[dict[str, Any], dict[str, object]]] = [
    (
        {},
        {
            "optimizer": "SGD", "optimizer_options": {"momentum": 0.9, "nesterov": True}, "learning_rate": 0.02,
            "backbone_scale": 1.0, "weight_decay": 5e-4, "layer_decay": 1.0, "gradient_clip": 1.0, "ema": 0.998,
            "schedule": "cosine", "warmup_share": 0.1, "batch_size": 64, "loss": "cross_entropy",
        },
    ),
    (
        {"kind": "transformer"},
        {
            "optimizer": "AdamW", "optimizer_options": {}, "learning_rate": 1e-4, "backbone_scale": 1.0,
            "weight_decay": 0.05, "layer_decay": 0.75,
        },
    ),
    ({"optimizer": "SGD", "optimizer_options": {"momentum": 0.5}}, {"optimizer_options": {"momentum": 0.5}}),
    ({"num_train": 1_999}, {"label_smoothing": 0.0}),
    ({"num_train": 2_000}, {"label_smoothing": 0.1}),
    ({"num_classes": 9}, {"label_smoothing": 0.0}),
    ({"loss": "bce"}, {"label_smoothing": 0.0}),
    ({"label_smoothing": 0.2, "num_train": 10}, {"label_smoothing": 0.2}),
    ({"num_train": 4_999}, {"batch_norm": "frozen"}),
    ({"num_train": 5_000}, {"batch_norm": "train", "augmentation": "crop_flip"}),
    ({"num_train": 5_000, "batch_size": 31}, {"batch_norm": "frozen"}),
    ({"num_train": 5_001}, {"augmentation": "trivial"}),
    ({"num_train": 19_999}, {"mixup": 0.0}),
    ({"num_train": 20_000}, {"mixup": 0.1}),
    ({"ema": "off"}, {"ema": None}),
    ({"ema": 0.99}, {"ema": 0.99}),
    ({"num_train": 40}, {"batch_size": 40, "patience": 50}),
    ({"num_train": 6_400}, {"epochs": 10, "patience": 10}),
    ({"patience": 0}, {"patience": 0}),
    ({"loss": "focal"}, {"focal_gamma": 2.0}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), TABLE, ids=lambda value: str(value)[:60])
def test_what_is_left_open_is_settled_by_the_table(given: dict[str, Any], expected: dict[str, object]) -> None:
    made = settled(**given).as_dict()
    assert {name: made[name] for name in expected} == expected


def test_the_scheduler_can_read_recipes_without_torch() -> None:
    code = "import sys, pipeline.learning.recipes; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
