"""Takes a network in evaluation mode. Gives the same network with its BatchNorms folded into the convolutions before.

Knows nothing of what the network is for. In evaluation a BatchNorm is a scale and a shift per channel, which the
convolution's weights can carry (Jacob et al. 2018, section 3.2): one pass over memory less for each.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

logger = logging.getLogger(__name__)


class _Tracer(fx.Tracer):
    """Sees convolutions and BatchNorms whole, also those that timm derives from torch's."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, nn.Conv2d | _BatchNorm) or super().is_leaf_module(module, qualified_name)


def fold_batch_norms(network: nn.Module) -> int:
    """Fold in place and give the number of BatchNorms that are gone.

    A network whose flow cannot be traced, because it depends on the values of its input, stays as it is.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(network)
    except Exception as untraceable:  # noqa: BLE001 - tracing runs the network's own code on stand-ins: anything may come
        logger.info("BatchNorms stay as they are: %s", untraceable)
        return 0
    finally:
        # It stands in a circle of references, and would keep the network until the collector came by.
        vars(tracer).clear()
    pairs = list(_pairs(network, graph))
    for conv_name, norm_name in pairs:
        norm = network.get_submodule(norm_name)
        network.set_submodule(conv_name, fuse_conv_bn_eval(network.get_submodule(conv_name), norm))  # type: ignore[type-var, arg-type]
        # timm's BatchNorms end in their activation.
        network.set_submodule(norm_name, nn.Sequential(*(getattr(norm, name) for name in _rest(norm))))
    return len(pairs)


def _pairs(network: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    """Give the names of each convolution and the one BatchNorm that nothing but it feeds, both used once."""
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        conv, norm = network.get_submodule(str(source.target)), network.get_submodule(str(node.target))
        is_once = calls[source.target] == calls[node.target] == 1
        if is_once and isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and _is_foldable(norm):
            yield str(source.target), str(node.target)


def _is_foldable(norm: nn.BatchNorm2d) -> bool:
    return not norm.training and isinstance(norm.running_mean, torch.Tensor)


def _rest(norm: nn.Module) -> list[str]:
    return [name for name in ("drop", "act") if hasattr(norm, name)]
