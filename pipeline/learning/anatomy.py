"""Takes a network.

Gives the names of the layers that training tells apart: head, units from input to output, last stage.
Knows nothing of training; it runs one black image through the network and looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import ArchitectureUnknown

Strategy = Literal["head", "last_stage", "all"]
Kind = Literal["convolution", "transformer"]

#: modules that only hold others
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
#: units at the lowest resolution that are more than this share of all are no stage (transformers, plain MLPs) ...
MOST_SHARE = 2 / 3
#: ... and this share, the last, is taken for one
LAST_SHARE = 1 / 3


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
