"""Takes a recipe, or the names and values somebody wrote in one.

Gives the one sentence that says what is wrong with it: an unknown name, a number out of bounds, options that exclude
each other.
Knows nothing of torch: which optimizers there are is for optimizers.check_optimizer.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import RecipeInvalid

if TYPE_CHECKING:
    from pipeline.learning.recipes import Recipe

#: field -> the names it may have
CHOICES: Mapping[str, tuple[str, ...]] = {
    "strategy": ("auto", "head", "last_stage", "all"),
    "start": ("pretrained", "champion"),
    "loss": ("cross_entropy", "weighted_cross_entropy", "focal", "bce"),
    "schedule": ("cosine", "linear", "constant", "step"),
    "batch_norm": ("auto", "frozen", "train"),
    "augmentation": ("auto", "none", "crop_flip", "trivial"),
    "imbalance": ("balance", "none", "adjust"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "metric": ("balanced_accuracy", "accuracy", "macro_f1", "nll"),
}
#: field -> the least and the most it may be
NUMBERS: Mapping[str, tuple[float, float]] = {
    "shrink_perturb": (0.01, 0.99),
    "focal_gamma": (0.0, 10.0),
    "label_smoothing": (0.0, 0.5),
    "mixup": (0.0, 10.0),
    "learning_rate": (1e-8, 100.0),
    "backbone_scale": (0.0, 10.0),
    "weight_decay": (0.0, 1.0),
    "layer_decay": (0.1, 1.0),
    "warmup_share": (0.0, 0.9),
    "epochs": (1, 10_000),
    "budget_samples": (1, 10**9),
    "batch_size": (1, 65_536),
    "gradient_clip": (0.0, 1e6),
    "patience": (0, 10_000),
    "memorisation_gap": (0.01, 1.0),
    "num_processes": (1, 64),
}
#: fields of NUMBERS that count something
COUNTS = ("epochs", "budget_samples", "batch_size", "patience", "num_processes")
#: fields of NUMBERS that may be left open, as None or "auto"
OPEN = ("shrink_perturb", "focal_gamma", "label_smoothing", "mixup", "learning_rate", "backbone_scale",
        "weight_decay", "layer_decay", "epochs", "patience")  # fmt: skip
#: decay of the average: beyond it nothing of a run's own weights would be in it
MOST_EMA = 0.9999


def check_fields(given: Mapping[str, object], known: Sequence[str]) -> None:
    """Raise RecipeInvalid for a field that a recipe does not have, or a number that is none."""
    for name, value in given.items():
        if name not in known:
            raise RecipeInvalid(f"A recipe has no field {name!r}{_hint(str(name), known)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeInvalid(f"{name} is {value}, which is no number to train with.")


def check(recipe: Recipe) -> None:
    """Raise RecipeInvalid for an unknown name, a number out of bounds, or options that exclude each other."""
    for name, allowed in CHOICES.items():
        _check_choice(name, getattr(recipe, name), allowed)
    for name, bounds in NUMBERS.items():
        _check_number(name, getattr(recipe, name), bounds)
    _check_ema(recipe.ema)
    _check_others(recipe.optimizer, recipe.optimizer_options, recipe.horizontal_flip)
    for is_wrong, sentence in _exclusions(recipe):
        if is_wrong:
            raise RecipeInvalid(sentence)


def _exclusions(recipe: Recipe) -> tuple[tuple[bool, str], ...]:
    """Give what must not be, and the sentence that says so."""
    return (
        (
            recipe.loss == "bce" and bool(recipe.label_smoothing),
            "loss=bce and label_smoothing exclude each other: its targets are one yes and many noes.",
        ),
        (
            recipe.loss != "focal" and recipe.focal_gamma is not None,
            f"focal_gamma belongs to loss=focal, and loss is {recipe.loss}.",
        ),
        (
            recipe.loss == "weighted_cross_entropy" and recipe.imbalance == "adjust",
            "loss=weighted_cross_entropy and imbalance=adjust both correct for rare classes: choose one.",
        ),
        (
            recipe.loss == "bce" and recipe.imbalance == "adjust",
            "imbalance=adjust shifts a softmax, and loss=bce has none: choose balance or none.",
        ),
        (
            recipe.strategy == "head" and bool(recipe.mixup),
            "mixup needs images, and strategy=head trains on cached features: leave mixup out.",
        ),
        (
            recipe.strategy == "head" and recipe.augmentation not in ("auto", "none"),
            "augmentation needs images, and strategy=head trains on cached features: leave augmentation out.",
        ),
        (
            recipe.strategy == "head" and (recipe.layer_decay is not None or recipe.backbone_scale is not None),
            "layer_decay and backbone_scale are for a backbone that trains, and strategy=head trains none.",
        ),
        (
            recipe.strategy == "head" and recipe.num_processes > 1,
            "strategy=head is solved in seconds by one process: leave num_processes out.",
        ),
        (
            recipe.start == "pretrained" and recipe.shrink_perturb is not None,
            "shrink_perturb loosens the champion's weights, and start is pretrained: choose start=champion.",
        ),
        (
            recipe.optimizer == "auto" and bool(recipe.optimizer_options),
            "optimizer_options belong to one optimizer, and optimizer is auto: name it.",
        ),
        (
            recipe.augmentation == "none" and recipe.horizontal_flip,
            "horizontal_flip is augmentation, and augmentation is none: choose crop_flip.",
        ),
        (
            not {"lr", "params", "weight_decay"}.isdisjoint(recipe.optimizer_options),
            "learning_rate and weight_decay are fields of the recipe, not optimizer_options.",
        ),
    )


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RecipeInvalid(f"{name} is {value!r}; it must be one of {', '.join(allowed)}{_hint(str(value), allowed)}")


def _check_number(name: str, value: object, bounds: tuple[float, float]) -> None:
    if value is None and name in OPEN:
        return
    wanted = int if name in COUNTS else int | float
    low, high = bounds
    if isinstance(value, bool) or not isinstance(value, wanted) or not low <= value <= high:
        kind = "whole number" if name in COUNTS else "number"
        left_open = ' or "auto"' if name in OPEN else ""
        raise RecipeInvalid(f"{name} is {value!r}; it must be a {kind} in {low:g}..{high:g}{left_open}.")


def _check_ema(value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value in ("auto", "off") or (is_number and 0 < float(value) <= MOST_EMA):  # type: ignore[arg-type]
        return
    raise RecipeInvalid(f'ema is {value!r}; it must be "auto", "off" or a decay above 0, {MOST_EMA} at most.')


def _check_others(optimizer: object, options: object, horizontal_flip: object) -> None:
    if not isinstance(optimizer, str) or not optimizer:
        raise RecipeInvalid(f'optimizer is {optimizer!r}; it must be "auto" or the name of a class of torch.optim.')
    if not isinstance(options, Mapping):
        raise RecipeInvalid(f"optimizer_options is {options!r}; it must map names to numbers.")
    if not isinstance(horizontal_flip, bool):
        raise RecipeInvalid(f"horizontal_flip is {horizontal_flip!r}; it must be true or false.")


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else "."
