"""Takes a version's name. Gives what the registry and the checkpoint say of it. Knows nothing of the broker."""

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.tree import Tree

from db import errors as db_errors
from db import registry, session
from worker import messages, runtime
from worker.cli import output
from worker.settings import Settings

if TYPE_CHECKING:
    from pipeline.backbones import ModuleRow
    from pipeline.cards import Card

#: What of the preprocessing can be said on the command line.
PIXELS = ("resize_size", "crop_size", "interpolation", "mean", "std")


def listed(asked: Namespace, settings: Settings) -> int:
    """Print every version, newest first."""
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        versions = registry.versions(reading, asked.model)
        serving = {model: registry.serving(reading, model) for model in {version.model for version in versions}}
    serves = {pointer.version.id for pointer in serving.values() if pointer}
    if asked.json:
        output.as_json([_as_dict(version, serves=version.id in serves) for version in versions])
        return 0
    output.table(
        "Versions",
        ("version", "serves", "architecture", "classes", "parameters", "source", "created"),
        (
            (
                version.name, output.Markup("[green]serves[/green]") if version.id in serves else "", version.arch,
                version.num_classes, version.num_parameters, version.source, output.when(version.created_at_s),
            )
            for version in versions
        ),
    )  # fmt: skip
    return 0


def show(asked: Namespace, settings: Settings) -> int:
    """Print a version's card and its module tree."""
    import torch

    from pipeline import backbones, checkpoints

    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        version = registry.version(reading, asked.version)
    card = checkpoints.read_card(version.reference, version.sha256)
    with torch.device("meta"):
        network = backbones.build(card.arch, num_classes=len(card.classes), options=card.arch_options)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(card.frozen))
    rows = backbones.module_tree(network)
    if asked.json:
        output.as_json(_as_dict(version) | {"card": card.as_dict(), "modules": rows})
        return 0
    _print_card(version, card)
    output.console().print(_tree(version.name, rows))
    return 0


def imported(asked: Namespace, settings: Settings) -> int:
    """Make a version from weights."""
    from worker import versions

    wanted = versions.Import(
        model=_model(asked.model),
        arch=asked.arch,
        arch_options=dict(map(_option, asked.arch_option)),
        weights=asked.weights,
        classes=Path(asked.classes) if asked.classes else None,
        preprocess={name: getattr(asked, name) for name in PIXELS if getattr(asked, name) is not None},
    )
    with runtime.ledger(settings) as sessions:
        made = versions.import_version(sessions, settings.store, wanted, promoted=asked.promote)
    if asked.json:
        output.as_json(_as_dict(made.version, serves=made.serves) | {"report": made.report})
        return 0
    console = output.console()
    console.print(made.report.summary())
    console.print(f"[bold]{made.version.name}[/bold] is saved at {made.version.reference}")
    if made.serves:
        console.print(f"[green]{made.version.name} serves[/green]; submit images with: {_example(made.version.model)}")
    else:
        console.print(f"It does not serve yet; let it with: imagemill models promote {made.version.name}")
    if made.version.model not in settings.models:
        console.print(
            f"[yellow]This machine's workers serve {', '.join(settings.models)}; "
            f"add {made.version.model} to IMAGEMILL_MODELS and restart them.[/yellow]"
        )
    return 0


def promote(asked: Namespace, settings: Settings) -> int:
    """Let a version serve."""
    from worker import versions

    with runtime.ledger(settings) as sessions:
        serving = versions.promote(sessions, asked.version, reason=asked.reason, is_forced=asked.force)
    return _say_serving(asked, serving)


def rollback(asked: Namespace, settings: Settings) -> int:
    """Let the version serve that served before."""
    from worker import versions

    with runtime.ledger(settings) as sessions:
        serving = versions.rollback(sessions, _model(asked.model), reason=asked.reason)
    return _say_serving(asked, serving)


def history(asked: Namespace, settings: Settings) -> int:
    """Print what served when, or what served at one time."""
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        promotions = registry.history(reading, asked.model)
        if not promotions and asked.model not in registry.models(reading):
            raise db_errors.UnknownModel(f"There is no model {asked.model!r}; see `imagemill models list`.")
        at = registry.live_at(reading, asked.model, asked.at) if asked.at is not None else None
    if asked.at is not None:
        return _say_live(asked, at)
    if asked.json:
        output.as_json(promotions)
        return 0
    output.table(
        f"What served as {asked.model}",
        ("since", "version", "before", "how", "who", "reason"),
        (
            (
                output.when(one.at_s), one.version, one.previous, f"{one.kind}, forced" if one.is_forced else one.kind,
                one.who, one.reason,
            )
            for one in promotions
        ),
    )  # fmt: skip
    return 0


def _say_live(asked: Namespace, version: registry.Version | None) -> int:
    if asked.json:
        output.as_json(_as_dict(version) if version else None)
    else:
        named = version.name if version else "No version"
        print(f"{named} served as {asked.model} at {output.when(asked.at)}.")
    return 0


def verify(asked: Namespace, settings: Settings) -> int:
    """Check hashes, structure and parity of a version's checkpoint."""
    from pipeline import checkpoints

    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        version = registry.version(reading, asked.version)
    checkpoints.verify(version.reference, version.sha256)
    if asked.json:
        output.as_json(_as_dict(version) | {"verified": True})
    else:
        print(f"{version.name} is whole: hashes, structure and parity agree with its card.")
    return 0


def _say_serving(asked: Namespace, serving: registry.Serving) -> int:
    if asked.json:
        output.as_json(_as_dict(serving.version, serves=True) | {"epoch": serving.epoch})
    else:
        print(f"{serving.version.name} serves now; warm workers swap to it within seconds.")
    return 0


def _model(name: str) -> str:
    if not messages.MODEL_NAME.fullmatch(name):
        raise messages.MessageInvalid(f"{name!r} cannot name a model: use lower-case letters, digits and _ . -")
    return name


def _option(text: str) -> tuple[str, object]:
    """Read NAME=VALUE; the value is JSON where it is, else text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise messages.MessageInvalid(f"--arch-option takes NAME=VALUE, not {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _as_dict(version: registry.Version, **more: object) -> dict[str, object]:
    known = {name: getattr(version, name) for name in ("name", "model", "number", "arch", "num_classes", "reference")}
    known |= {
        name: getattr(version, name) for name in ("sha256", "source", "metrics", "num_parameters", "created_at_s")
    }
    return known | more


def _example(model: str) -> str:
    return "imagemill submit --wait photos/" + ("" if model == "default" else f" --model {model}")


def _print_card(version: registry.Version, card: "Card") -> None:
    console = output.console()
    preprocess = card.preprocess
    some = "; ".join(card.classes[:4]) + ("; ..." if len(card.classes) > 4 else "")
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in card.metrics.items())
    console.print(f"[bold]{version.name}[/bold] {card.arch}{_options(card)}")
    for name, value in (
        ("classes", f"{len(card.classes)}: {some}"),
        ("parameters", f"{card.num_parameters:,}"),
        (
            "pixels",
            f"resize {preprocess.resize_size}, crop {preprocess.crop_size}, {preprocess.interpolation}",
        ),
        ("metrics", metrics),
        ("frozen", ", ".join(card.frozen)),
        ("source", version.source),
        ("created", output.when(card.created_at_s)),
        ("checkpoint", version.reference),
        ("sha256", version.sha256),
    ):
        if value:
            console.print(f"  {name:10} {output.plain(value)}")


def _options(card: "Card") -> str:
    return "".join(f" {name}={value}" for name, value in card.arch_options.items())


def _tree(name: str, rows: "list[ModuleRow]") -> Tree:
    """Draw the module tree: type, parameters, shapes, and what is trainable."""
    root = Tree(f"[bold]{name}[/bold]")
    branches = {-1: root}
    for row in rows:
        branches[row.depth] = branches[row.depth - 1].add(_line(row))
    return root


def _line(row: "ModuleRow") -> str:
    shapes = "  ".join(f"{name} {'×'.join(map(str, shape)) or 'scalar'}" for name, shape in row.shapes)
    trained = "" if not row.num_parameters else "  [green]trainable[/green]" if row.trainable else "  [dim]frozen[/dim]"
    name = f"[cyan]{row.name.rpartition('.')[2]}[/cyan] " if row.name else ""
    count = f" {row.num_parameters:,}" if row.num_parameters else ""
    return f"{name}{row.type}{count}{trained}" + (f"  [dim]{shapes}[/dim]" if shapes else "")
