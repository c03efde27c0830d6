"""Takes the name of an architecture.

Gives a network with a head for N classes, its preprocessing, its published weights, its module tree.
Knows nothing of images, checkpoints or training.
"""

from __future__ import annotations

import difflib
import importlib
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor, nn
from torchvision import models

from pipeline.classes import unique_names
from pipeline.errors import ArchitectureUnknown, WeightsUnreachable
from pipeline.preprocess import Preprocess

#: these two train with auxiliary heads and warn about a slow initialisation; one plain output is wanted here.
#: transform_input is how their published weights were made.
PLAIN = {"aux_logits": False, "init_weights": False, "transform_input": True}
#: options that differ from torchvision's defaults
TORCHVISION_OPTIONS: Mapping[str, Mapping[str, object]] = {"googlenet": PLAIN, "inception_v3": PLAIN}
#: seconds to wait for a server of published weights, before its clients' own long retries begin
REACH_TIMEOUT_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Weights that the authors of a library published."""

    state_dict: Mapping[str, Tensor]
    #: names of the outputs, in order, each only once
    classes: tuple[str, ...]
    preprocess: Preprocess


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRow:
    """One line of a network's module tree."""

    #: 0 for the network itself
    depth: int
    name: str
    type: str
    #: of the module and everything in it
    num_parameters: int
    #: name and shape of each parameter the module holds itself
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    #: whether any parameter in it is trained
    trainable: bool


def build(arch: str, *, num_classes: int, options: Mapping[str, object] | None = None) -> nn.Module:
    """Build `arch` with random weights; raise ArchitectureUnknown.

    `arch` is NAME (torchvision's classification networks, then timm's), torchvision:NAME, timm:NAME or
    package.module:factory, called as factory(num_classes=..., **options). The option head="linear" gives a network
    of torchvision or timm that ends in a convolution (squeezenet) pooling and a linear layer instead.
    """
    source, name = _resolve(arch)
    given = dict(options or {})
    is_linear = source in ("torchvision", "timm") and given.get("head") == "linear"
    if is_linear:
        del given["head"]
    try:
        if source == "torchvision":
            network = models.get_model(name, num_classes=num_classes, **_torchvision_options(name, given))
        elif source == "timm":
            network = _timm().create_model(name, num_classes=num_classes, **given)
        else:
            network = _factory(source, name)(num_classes=num_classes, **given)
    except (TypeError, ValueError) as error:
        raise ArchitectureUnknown(f"{arch} cannot be built with {num_classes} classes, {given}: {error}.") from error
    if not isinstance(network, nn.Module):
        raise ArchitectureUnknown(f"{arch} gave a {type(network).__name__}; it must give a torch.nn.Module.")
    return _with_linear_head(network, arch, num_classes) if is_linear else network


def preprocess_for(arch: str, options: Mapping[str, object] | None = None) -> Preprocess:
    """Give the preprocessing that `arch` was published with; a factory's network may carry its own."""
    source, name = _resolve(arch)
    if source == "torchvision":
        # The first weights published for it (V1) were made with the classic recipe, which most files on disk follow.
        return _of_torchvision(next(iter(models.get_model_weights(name))))
    if source == "timm":
        return _of_timm(name, options or {})
    own = getattr(build(arch, num_classes=2, options=options), "preprocess", None)
    return own if isinstance(own, Preprocess) else Preprocess(resize_size=256, crop_size=224)


def published(arch: str, weights: str) -> Published:
    """Download the weights called DEFAULT, IMAGENET1K_V1, a timm tag, ...; raise WeightsUnreachable."""
    source, name = _resolve(arch)
    if source == "torchvision":
        return _published_by_torchvision(name, weights)
    if source == "timm":
        return _published_by_timm(name, weights)
    raise WeightsUnreachable(f"{arch} has no published weights; give a file of weights instead.")


def module_tree(network: nn.Module) -> list[ModuleRow]:
    """List the modules of a network, outermost first; a network on the meta device will do."""
    return [_row(name, module) for name, module in network.named_modules()]


# ---------------------------------------------------------------- names


def _resolve(arch: str) -> tuple[str, str]:
    source, colon, name = arch.partition(":")
    if colon and source not in ("torchvision", "timm"):
        return source, name
    name = name if colon else arch
    if source != "timm" and name in torchvision_names():
        return "torchvision", name
    if source != "torchvision" and _timm().is_model(name):
        return "timm", name
    raise _unknown(arch, name)


def torchvision_names() -> list[str]:
    """List torchvision's classification networks."""
    return list(models.list_models(module=models))


def _unknown(arch: str, name: str) -> ArchitectureUnknown:
    near = difflib.get_close_matches(name, [*torchvision_names(), *_timm().list_models()], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "give a name of torchvision or timm, or module:factory."
    return ArchitectureUnknown(f"No architecture is called {arch!r}; {hint}")


def _factory(module: str, name: str) -> Callable[..., object]:
    try:
        found: Callable[..., object] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArchitectureUnknown(f"The factory {module}:{name} cannot be imported: {error}.") from error
    return found


def _timm() -> ModuleType:
    # Imported when asked for: it costs 1.4 seconds, which no torchvision network should pay.
    return importlib.import_module("timm")


def _torchvision_options(name: str, options: Mapping[str, object]) -> dict[str, object]:
    return {**TORCHVISION_OPTIONS.get(name, {}), **options}


# ---------------------------------------------------------------- heads


def _with_linear_head(network: nn.Module, arch: str, num_classes: int) -> nn.Module:
    """Replace a last convolution, and what follows it, by pooling and a linear layer; give a linear layer a bias."""
    name, last = [row for row in network.named_modules() if isinstance(row[1], nn.Linear | nn.Conv2d)][-1]
    parent = network.get_submodule(name.rpartition(".")[0])
    own = name.rpartition(".")[2]
    if isinstance(last, nn.Linear):
        parent.register_module(own, nn.Linear(last.in_features, num_classes))
    elif isinstance(last, nn.Conv2d) and last.out_channels == num_classes:
        linear = nn.Linear(last.in_channels, num_classes)
        parent.register_module(own, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear))
        if isinstance(parent, nn.Sequential):  # squeezenet: ReLU and pooling of the logits
            del parent[int(own) + 1 :]
    else:
        raise ArchitectureUnknown(f"{arch} ends in neither a linear layer nor a convolution for the classes.")
    return network


# ---------------------------------------------------------------- preprocessing


def _of_torchvision(weights: models.WeightsEnum) -> Preprocess:
    preset = weights.transforms()
    return Preprocess(
        resize_size=preset.resize_size[0],
        crop_size=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _of_timm(name: str, options: Mapping[str, object]) -> Preprocess:
    timm = _timm()
    trained = timm.get_pretrained_cfg(name)
    config = timm.data.resolve_data_config(dict(options), pretrained_cfg=trained.to_dict() if trained else {})
    crop_size = config["input_size"][-1]
    return Preprocess(
        resize_size=int(crop_size / config["crop_pct"]),
        crop_size=crop_size,
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


# ---------------------------------------------------------------- published weights


def _published_by_torchvision(name: str, weights: str) -> Published:
    offered = models.get_model_weights(name)
    if weights not in offered.__members__:
        known = ", ".join(["DEFAULT", *offered.__members__])
        raise WeightsUnreachable(f"{name} has no published weights called {weights!r}; it has {known}.")
    entry = offered["DEFAULT" if weights == "DEFAULT" else weights]
    _reach(entry.url)
    try:
        network = models.get_model(name, weights=entry, progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsUnreachable(f"The weights {entry.url} could not be downloaded: {error}.") from error
    categories = entry.meta["categories"]
    kept = build(f"torchvision:{name}", num_classes=len(categories)).state_dict().keys()
    return Published(
        state_dict={key: value for key, value in network.state_dict().items() if key in kept},
        classes=unique_names(categories, range(len(categories))),
        preprocess=_of_torchvision(entry),
    )


def _published_by_timm(name: str, weights: str) -> Published:
    timm = _timm()
    full_name = name if weights == "DEFAULT" else f"{name.partition('.')[0]}.{weights}"
    if not timm.models.is_model_pretrained(full_name):
        raise WeightsUnreachable(f"timm publishes no weights called {full_name}; give a file of weights instead.")
    trained = timm.get_pretrained_cfg(full_name)
    # The hub's own client retries for minutes.
    _reach(trained.url or importlib.import_module("huggingface_hub").constants.ENDPOINT)
    try:
        network = timm.create_model(full_name, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise WeightsUnreachable(f"The weights of {full_name} could not be downloaded: {error}.") from error
    return Published(
        state_dict=network.state_dict(), classes=_timm_classes(network), preprocess=_of_timm(full_name, {})
    )


def _timm_classes(network: nn.Module) -> tuple[str, ...]:
    data = _timm().data
    subset = data.infer_imagenet_subset(network)
    if not subset:
        return tuple(f"class {index}" for index in range(int(getattr(network, "num_classes", 0))))
    info = data.ImageNetInfo(subset)
    indices = range(info.num_classes())
    names = [info.index_to_description(index) for index in indices]
    return unique_names(names, [info.index_to_label_name(index) for index in indices])


def _reach(url: str) -> None:
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the library's own https address
    try:
        urllib.request.urlopen(request, timeout=REACH_TIMEOUT_S).close()  # noqa: S310
    except OSError as error:
        raise WeightsUnreachable(
            f"The server of the published weights ({url}) does not answer: {error}; give a file of weights instead."
        ) from error


# ---------------------------------------------------------------- module tree


def _row(name: str, module: nn.Module) -> ModuleRow:
    parameters = list(module.parameters())
    return ModuleRow(
        depth=name.count(".") + 1 if name else 0,
        name=name,
        type=type(module).__name__,
        num_parameters=sum(parameter.numel() for parameter in parameters),
        shapes=tuple((key, tuple(value.shape)) for key, value in module.named_parameters(recurse=False)),
        trainable=any(parameter.requires_grad for parameter in parameters),
    )
