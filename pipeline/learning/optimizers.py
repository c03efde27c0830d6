"""Takes a settled recipe and a network whose parts are frozen as they should be.

Gives the torch optimizer by the name the recipe calls it, and the learning rate of each step.
Knows nothing of data or losses.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.errors import RecipeInvalid
from pipeline.learning import layers as parts
from pipeline.learning.layers import Layers
from pipeline.learning.recipes import Settled

#: steps of warm-up at most
MOST_WARMUP_STEPS = 200
#: schedule=step divides the rate by ten after each of these shares of the run (BiT HyperRule: 3, 6, 9 of 10)
STEPS_AT, STEP_FACTOR = (0.3, 0.6, 0.9), 0.1
#: optimizers that need more than gradients of any shape: a closure, sparse gradients, matrices only
UNFIT: Mapping[str, str] = {
    "LBFGS": "it needs the loss computed again and again within a step",
    "SparseAdam": "it needs sparse gradients",
    "Muon": "it takes matrices only, and networks have kernels and biases",
}
#: arguments that a loop cannot honour
FORBIDDEN = ("params", "lr", "weight_decay", "maximize", "differentiable")


def names() -> tuple[str, ...]:
    """List the optimizers that a recipe may name."""
    found = inspect.getmembers(torch.optim, inspect.isclass)
    return tuple(
        name for name, entry in found if issubclass(entry, torch.optim.Optimizer) and name not in ("Optimizer", *UNFIT)
    )


def check_optimizer(name: str, options: Mapping[str, object]) -> None:
    """Raise RecipeInvalid unless torch.optim has `name`, it fits a plain loop, and it takes and accepts `options`."""
    if name == "auto":
        return
    _check_name(name)
    taken = [key for key in inspect.signature(getattr(torch.optim, name)).parameters if key not in FORBIDDEN]
    for key in options:
        if key not in taken:
            near = difflib.get_close_matches(key, taken, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(taken)}."
            raise RecipeInvalid(f"The optimizer {name} takes no option {key!r}; {hint}")
    _build(name, [{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.01}], options)


def build(network: nn.Module, layers: Layers, settled: Settled) -> torch.optim.Optimizer:
    """Build the optimizer over every parameter that trains, in groups by depth and decay; raise RecipeInvalid."""
    check_optimizer(settled.optimizer, settled.optimizer_options)
    groups = parts.parameter_groups(
        network,
        layers,
        learning_rate=settled.learning_rate,
        weight_decay=settled.weight_decay,
        backbone_scale=settled.backbone_scale,
        layer_decay=settled.layer_decay,
    )
    return _build(settled.optimizer, groups, settled.optimizer_options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate as a share of its peak, by step: a pure function, so that nothing needs to be saved."""

    name: str
    num_steps: int
    num_warmup: int

    def scale(self, step: int) -> float:
        """Give the share at step 0, 1, ..., num_steps - 1; the first is not zero, and the end is only approached."""
        if step < self.num_warmup:
            return (step + 1) / (self.num_warmup + 1)
        done = (step - self.num_warmup) / max(1, self.num_steps - self.num_warmup)
        if self.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.name == "linear":
            return 1 - done
        if self.name == "step":
            return float(STEP_FACTOR ** sum(step / self.num_steps >= share for share in STEPS_AT))
        return 1.0


def schedule(settled: Settled, num_steps: int) -> Schedule:
    """Plan the learning rate for a run of so many steps."""
    num_warmup = min(MOST_WARMUP_STEPS, round(settled.warmup_share * num_steps))
    return Schedule(name=settled.schedule, num_steps=num_steps, num_warmup=num_warmup)


def set_scale(optimizer: torch.optim.Optimizer, peaks: list[float], scale: float) -> None:
    """Set each group's learning rate to `scale` times its peak."""
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * scale


def _check_name(name: str) -> None:
    if name in UNFIT:
        raise RecipeInvalid(f"The optimizer {name} does not fit: {UNFIT[name]}.")
    known = names()
    if name in known:
        return
    same = [entry for entry in known if entry.lower() == name.lower()]
    near = same or difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}."
    raise RecipeInvalid(f"torch.optim has no optimizer {name!r}; {hint}")


def _build(name: str, groups: list[dict[str, object]], options: Mapping[str, object]) -> torch.optim.Optimizer:
    try:
        built: torch.optim.Optimizer = getattr(torch.optim, name)(groups, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RecipeInvalid(f"The optimizer {name} cannot be made with {dict(options)}: {error}.") from error
    return built
