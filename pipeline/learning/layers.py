"""Takes a network that ends in a linear layer.

Gives the parts training needs to tell apart (head, units from input to output, last stage), freezes them so that
they stay frozen, groups their parameters for an optimizer, and proves by digest what did not change.
Knows nothing of data, losses, or of how the parts are trained.
"""

from __future__ import annotations

import hashlib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import state_dicts
from pipeline.errors import ArchitectureUnknown, WeightsDoNotFit

Strategy = Literal["head", "last_stage", "all"]
Kind = Literal["convolution", "transformer"]

#: modules that only hold others
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
#: units at the lowest resolution that are more than this share of all are no stage (transformers, plain MLPs) ...
MOST_SHARE = 2 / 3
#: ... and this share, the last, is taken for one
LAST_SHARE = 1 / 3
#: what a function's repr holds that differs from process to process
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The parts of a network, by name; a parameter that its network holds itself is a unit too."""

    #: name of the linear layer that gives the logits
    head: str
    #: everything else that holds parameters or buffers, input to output
    units: tuple[str, ...]
    #: the units at the lowest spatial resolution and what follows them; of a transformer the last third
    last_stage: tuple[str, ...]
    #: what its normalisation layers make it, as recipes differ: LayerNorm makes a transformer (ConvNeXt too)
    kind: Kind

    def trained(self, strategy: Strategy) -> tuple[str, ...]:
        """Give the units that the strategy trains beside the head."""
        return {"head": (), "last_stage": self.last_stage, "all": self.units}[strategy]


def layers(network: nn.Module, crop_size: int) -> Layers:
    """Run one black image of `crop_size` pixels through the network and name its parts.

    A network on the meta device will do. Raise ArchitectureUnknown if it does not end in a linear layer with a bias.
    """
    trace = _trace(network, crop_size)
    head = _head_name(network, trace)
    units = [unit for unit in _units(network, "", head) if unit != head]
    # Parameters of the network's own (class token, position embedding) act at the input, like what never ran.
    units.sort(key=lambda unit: trace.order.get(unit, -1))
    modules = [unit for unit in units if unit in trace.order]
    return Layers(head=head, units=tuple(units), last_stage=_last_stage(modules, trace), kind=_kind(network))


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
    content = "\n".join([*rows, _digest(_without_head(network.state_dict(), layers).items())])
    return hashlib.sha256(content.encode()).hexdigest()


def digest(state_dict: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> str:
    """Give the sha256 of names, types, shapes and bytes of the tensors whose names start with one of `prefixes`."""
    return _digest((name, tensor) for name, tensor in state_dict.items() if name.startswith(prefixes))


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        # Through uint8: numpy knows no bfloat16.
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


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


def _kind(network: nn.Module) -> Kind:
    num_layer = sum(isinstance(module, nn.LayerNorm) for module in network.modules())
    num_batch = sum(isinstance(module, _BatchNorm) for module in network.modules())
    return "transformer" if num_layer > num_batch else "convolution"


# ---------------------------------------------------------------- units


def _units(module: nn.Module, name: str, head: str) -> Iterator[str]:
    """Open stacks of blocks, and what holds the head, until what is left is a block or a single layer."""
    for own, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield _join(name, own)
    for own, child in module.named_children():
        child_name = _join(name, own)
        if _is_stack(child) or head.startswith(f"{child_name}."):
            yield from _units(child, child_name, head)
        elif _is_weighted(child):
            yield child_name


def _is_stack(module: nn.Module) -> bool:
    """Whether it only runs blocks one after the other: a plain container, or a stage with its blocks inside."""
    if type(module) in CONTAINERS:
        return True
    stacks = [module, *(child for child in module.children() if isinstance(child, CONTAINERS))]
    return any(_holds_blocks(stack) for stack in stacks)


def _holds_blocks(stack: nn.Module) -> bool:
    children = [child for child in stack.children() if _is_weighted(child)]
    return bool(children) and all(_is_block(child) for child in children)


def _is_block(module: nn.Module) -> bool:
    # Deep enough to have parts with parts (attention, MLP, convolution with norm). Without that, the parallel
    # branches of an Inception module would pass for a stack.
    parts = [part for child in module.children() for part in child.children()]
    return not isinstance(module, CONTAINERS) and any(_is_weighted(part) for part in parts)


def _is_weighted(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _join(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


# ---------------------------------------------------------------- one image through the network


@dataclass(slots=True)
class _Trace:
    #: module -> when it first gave an output
    order: dict[str, int]
    #: module -> positions (height x width, or tokens) of its output; 1 where there are none
    resolution: dict[str, int]
    #: linear layer -> its output, in the order they ran
    linear: dict[str, Tensor]
    #: what the network gave
    output: object


def _trace(network: nn.Module, crop_size: int) -> _Trace:
    trace = _Trace(order={}, resolution={}, linear={}, output=None)
    modes = [(module, module.training) for module in network.modules()]
    handles = [
        module.register_forward_hook(partial(_note, trace, name)) for name, module in network.named_modules() if name
    ]
    try:
        network.eval()
        with torch.no_grad():
            trace.output = network(_black_image(network, crop_size))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return trace


def _note(trace: _Trace, name: str, module: nn.Module, _inputs: object, output: object) -> None:
    trace.order.setdefault(name, len(trace.order))
    if isinstance(output, Tensor):
        trace.resolution[name] = _num_positions(output)
        if isinstance(module, nn.Linear):
            trace.linear[name] = output


def _num_positions(output: Tensor) -> int:
    if output.ndim == 4:
        # Square images: NCHW has equal last sides, NHWC (Swin) equal middle ones.
        _, first, second, third = output.shape
        return second * third if second == third else first * second
    return output.shape[1] if output.ndim == 3 else 1


def _black_image(network: nn.Module, crop_size: int) -> Tensor:
    weight = next((parameter for parameter in network.parameters() if parameter.is_floating_point()), None)
    if weight is None:
        raise ArchitectureUnknown("The network has no parameters, so there is nothing to train.")
    return torch.zeros(1, 3, crop_size, crop_size, device=weight.device, dtype=weight.dtype)


def _head_name(network: nn.Module, trace: _Trace) -> str:
    output = trace.output
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise ArchitectureUnknown("The network must give one row of logits per image, and nothing else.")
    ends = [name for name, logits in trace.linear.items() if _is_same(logits, output)]
    if len(ends) != 1:
        raise ArchitectureUnknown(
            "The network does not end in one linear layer, so no head can be fitted on its features; "
            "for one that ends in a convolution (squeezenet) give the option head=linear."
        )
    if network.get_submodule(ends[0]).bias is None:
        raise ArchitectureUnknown(f"The network's head {ends[0]} has no bias; give the option head=linear.")
    return ends[0]


def _is_same(logits: Tensor, output: Tensor) -> bool:
    # On the meta device there are no values to compare.
    return logits.shape == output.shape and (output.is_meta or torch.equal(logits, output))


def _last_stage(modules: list[str], trace: _Trace) -> tuple[str, ...]:
    """Give the last units, from the first that gives the lowest resolution (but for what comes after pooling)."""
    spatial = {unit: trace.resolution[unit] for unit in modules if trace.resolution.get(unit, 1) > 1}
    lowest = min(spatial.values(), default=0)
    start = next((modules.index(unit) for unit, num in spatial.items() if num == lowest), 0)
    if len(modules) - start > len(modules) * MOST_SHARE:
        start = len(modules) - max(1, round(len(modules) * LAST_SHARE)) if modules else 0
    return tuple(modules[start:])
