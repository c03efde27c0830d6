"""Takes a run's material and plan. Gives the challenger: the head, and what of the backbone proved worth training.

Knows nothing of test images, gates or SQL. The bake-off is decided on the validation images.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.learning import heads, layers
from pipeline.learning.heads import CrossValidated, Head
from pipeline.learning.layers import Strategy
from pipeline.learning.recipes import Recipe
from worker.learning import tuning
from worker.learning.material import Material
from worker.learning.trials import Trial, choose, settled_for, trial_of
from worker.learning.tuning import OnEpoch
from worker.learning.watch import Pace
from worker.learning.workshop import Workshop


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What training gives."""

    chosen: Trial
    trials: tuple[Trial, ...]
    #: why this one
    reason: str
    #: strength of the head, and out-of-fold probabilities of the training images
    cross_validated: CrossValidated


def train(
    workshop: Workshop,
    pace: Pace,
    material: Material,
    recipe: Recipe,
    strategies: Sequence[Strategy],
    *,
    folder: Path,
    on_epoch: OnEpoch,
    champion: Head | None = None,
) -> Trained:
    """Solve the head, train each other strategy from it, and choose on the validation images.

    What training resumes from after a crash lies in `folder`. `champion` is the head that serves on this very
    backbone, if there is one: grown by the new classes it competes with the head that is solved anew.

    Raises `TrainingDiverged`, `RecipeInvalid` (an optimizer's options), `torch.OutOfMemoryError` if one image is too
    many, `OSError` if there is no room for the state, and what `pace.keep_going` raises.
    """
    head, cross_validated = _solve(pace, material, recipe)
    trials = [_head_trial(material, recipe, head), *_grown(material, recipe, champion)]
    others = [strategy for strategy in strategies if strategy != "head"]
    if others:
        pictures = tuning.Pictures(workshop, material)
        trials += [
            tuning.tune(
                workshop, pace, material, recipe, head, strategy, pictures=pictures, folder=folder, on_epoch=on_epoch
            )
            for strategy in others
        ]
    chosen, reason = choose(trials, material.val.targets, strategies)
    return Trained(chosen=chosen, trials=tuple(trials), reason=reason, cross_validated=cross_validated)


def _solve(pace: Pace, material: Material, recipe: Recipe) -> tuple[Head, CrossValidated]:
    train, num_classes = material.train, len(material.snapshot.classes)
    is_balanced = recipe.imbalance == "balance"
    cross_validated = heads.choose_l2(
        train.features,
        train.targets,
        num_classes,
        seed=pace.seed,
        is_balanced=is_balanced,
        removed=material.masked,
    )
    pace.keep_going()
    solve = heads.balance if is_balanced else heads.fit
    head = solve(train.features, train.targets, num_classes, l2=cross_validated.l2, removed=material.masked)
    if recipe.imbalance == "adjust":
        head = heads.adjust(head, train.targets)
    return head, cross_validated


def _head_trial(material: Material, recipe: Recipe, head: Head) -> Trial:
    began_s = time.perf_counter()
    start = material.start
    network = start.network(head.num_classes)
    heads.apply(network, start.layers, head)
    frozen = layers.freeze(network, start.layers, "head")
    return trial_of(
        material,
        settled_for(material, recipe, "head"),
        network.eval(),
        heads.logits(head, material.val.features),
        began_s=began_s,
        frozen=frozen,
    )


def _grown(material: Material, recipe: Recipe, champion: Head | None) -> list[Trial]:
    """Append the new classes to the champion's head by imprinting; its old rows stay as they are, bit by bit."""
    num_classes = len(material.snapshot.classes)
    if champion is None or champion.num_classes >= num_classes or material.masked:
        return []
    grown = heads.imprint(champion, material.train.features, material.train.targets, num_classes)
    trial = _head_trial(material, recipe, grown)
    return [replace(trial, notes=("The champion's head with the new classes imprinted; its own rows did not move.",))]
