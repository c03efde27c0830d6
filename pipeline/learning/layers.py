"""Takes a network and the names of its layers.

Gives it another head, freezes its layers so that they stay frozen, groups their parameters for an optimizer, and
proves by digest what did not change.
Knows nothing of data, losses, or of how the layers are trained.
"""

from __future__ import annotations

import hashlib
import re
import types
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import state_dicts
from pipeline.errors import ArchitectureUnknown, WeightsDoNotFit
from pipeline.learning.anatomy import Kind, Layers, Strategy, layers
from pipeline.state_dicts import digest

__all__ = ["Kind", "Layers", "Strategy", "backbone_sha256", "depths", "digest", "freeze", "freeze_batch_norm",
           "head_of", "layers", "load_backbone", "parameter_groups", "replace_head"]  # fmt: skip

#: what a function's repr holds that differs from process to process
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def head_of(network: nn.Module, layers: Layers) -> nn.Linear:
    """Give the linear layer that gives the logits; raise ArchitectureUnknown if it is not there."""
    head = dict(network.named_modules()).get(layers.head)
    if not isinstance(head, nn.Linear):
        raise ArchitectureUnknown(f"The network has no linear layer called {layers.head!r}.")
    return head


def replace_head(network: nn.Module, layers: Layers, num_classes: int) -> None:
    """Put a head for `num_classes` classes in place of the one that is there; all its weights are zero."""
    old = head_of(network, layers)
    head = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    parent, _, name = layers.head.rpartition(".")
    network.get_submodule(parent).register_module(name, head)
    if isinstance(getattr(network, "num_classes", None), int):  # timm's networks say it there
        network.num_classes = num_classes  # type: ignore[assignment]


def load_backbone(network: nn.Module, layers: Layers, given: Mapping[str, Tensor]) -> None:
    """Load every tensor but the head's by name and shape, all or nothing; raise WeightsDoNotFit.

    `given` may have a head of any kind, for instance the convolution that squeezenet was published with.
    """
    expected = _without_head(network.state_dict(), layers)
    tensors, report = state_dicts.match(expected, {name: given[name] for name in expected if name in given})
    if not report.fits:
        raise WeightsDoNotFit(report)
    network.load_state_dict(tensors, strict=False)


# ---------------------------------------------------------------- freezing


def freeze(network: nn.Module, layers: Layers, strategy: Strategy) -> tuple[str, ...]:
    """Freeze all but the head and what the strategy trains, and give the prefixes of the frozen names.

    Frozen parameters have no gradient, and their modules (BatchNorm's statistics, dropout) stay in evaluation mode
    even after `network.train()`. An earlier freeze of any kind is undone first.
    """
    _thaw(network)
    trained = layers.trained(strategy)
    frozen = [unit for unit in layers.units if unit not in trained]
    prefixes = tuple(_prefix(network, unit) for unit in frozen)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))
    for module in _modules_before(network, layers, trained) if frozen else ():
        _stay_in_eval(module)
    return prefixes


def freeze_batch_norm(network: nn.Module) -> None:
    """Keep the statistics of every BatchNorm as they are, even after `network.train()`; scale and shift still train.

    Call it after `freeze`, which undoes it.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            _stay_in_eval(module)


def _stay_in_eval(module: nn.Module) -> None:
    module.eval()
    # On the instance, so that a parent's train() finds it; bound, so that a deep copy binds it to the copy.
    module.__dict__["train"] = types.MethodType(_train_not, module)


def _train_not(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    return module


def _thaw(network: nn.Module) -> None:
    for module in network.modules():
        module.__dict__.pop("train", None)
    network.requires_grad_(True)


def _modules_before(network: nn.Module, layers: Layers, trained: tuple[str, ...]) -> Iterator[nn.Module]:
    """Give the modules of the frozen units, and those without weights that are defined before what is trained."""
    is_before = True
    kept = (layers.head, *trained)
    for name, module in network.named_modules():
        is_before = is_before and not _is_in(name, trained)
        holds_trained = not name or any(_is_in(unit, (name,)) for unit in kept)
        in_frozen = _is_in(name, layers.units) and not _is_in(name, trained)
        if in_frozen or (is_before and not holds_trained):
            yield module


# ---------------------------------------------------------------- parameter groups


def parameter_groups(
    network: nn.Module,
    layers: Layers,
    *,
    learning_rate: float,
    weight_decay: float,
    backbone_scale: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict[str, object]]:
    """Give torch.optim's groups: every parameter that is trained is in exactly one of them.

    The head learns at `learning_rate`; the unit at depth i of L at learning_rate * backbone_scale *
    layer_decay^(L - i), where the head has depth L (timm's param_groups_layer_decay). Biases, 1-D parameters and
    embeddings that a network holds itself are not decayed (timm's param_groups_weight_decay).
    """
    scales = _scales(network, layers, backbone_scale, layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            unit = next((unit for unit in scales if _is_in(name, (unit,))), layers.head)
            is_decayed = parameter.ndim > 1 and "bias" not in name.rpartition(".")[2] and name != unit
            key = learning_rate * scales.get(unit, 1.0), weight_decay if is_decayed else 0.0
            groups.setdefault(key, []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def depths(network: nn.Module, layers: Layers) -> dict[str, int]:
    """Give the depth of each unit and of the head, from 0 at the input.

    A normalisation layer on its own belongs to what it normalises, and an embedding to the input.
    """
    modules = dict(network.named_modules())
    found, depth = {}, -1
    for unit in layers.units:
        if unit in modules and not _is_norm(modules[unit]):
            depth += 1
        found[unit] = max(depth, 0)
    return {**found, layers.head: depth + 1}


def _scales(network: nn.Module, layers: Layers, backbone_scale: float, layer_decay: float) -> dict[str, float]:
    found = depths(network, layers)
    last = found.pop(layers.head)
    return {unit: backbone_scale * layer_decay ** (last - depth) for unit, depth in found.items()}


# ---------------------------------------------------------------- digests


def backbone_sha256(network: nn.Module, layers: Layers) -> str:
    """Give the sha256 of what makes the features: every tensor but the head's, and the kinds of its modules.

    The same weights in a network that pads otherwise give other features, so the tensors alone would not do.
    """
    rows = [
        f"{name} {type(module).__qualname__} {ADDRESS.sub('', module.extra_repr())}"
        for name, module in network.named_modules()
        if name != layers.head
    ]
    content = "\n".join([*rows, state_dicts.digest(_without_head(network.state_dict(), layers))])
    return hashlib.sha256(content.encode()).hexdigest()


def _without_head(state_dict: Mapping[str, Tensor], layers: Layers) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state_dict.items() if not _is_in(name, (layers.head,))}


# ---------------------------------------------------------------- names


def _is_in(name: str, units: Iterable[str]) -> bool:
    return any(name == unit or name.startswith(f"{unit}.") for unit in units)


def _prefix(network: nn.Module, unit: str) -> str:
    """Give the prefix that all names of the unit have and no other: `features.1.` must not catch `features.10`."""
    return unit if unit in dict(network.named_parameters()) else f"{unit}."


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm)
