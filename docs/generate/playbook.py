"""Takes the playbook's classes. Gives the page that names every key. Knows nothing of what is done with them."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from docs.generate import markdown, remarks
from pipeline.learning.gate import GatePolicy
from pipeline.learning.plan import Thresholds
from pipeline.learning.recipes import Recipe
from pipeline.learning.similarity import ProbePolicy
from worker.playbook import DriftPolicy, LivePolicy, Playbook, TriggerPolicy

#: table of the file -> what reads it
TABLES: dict[str, type] = {
    "trigger": TriggerPolicy,
    "recipe": Recipe,
    "probe": ProbePolicy,
    "plan": Thresholds,
    "gate": GatePolicy,
    "live": LivePolicy,
    "drift": DriftPolicy,
}

HEAD = """\
# Playbook

How a model learns is one TOML file, which `IMAGEMILL_PLAYBOOK` names. It is read at each use, so an edit needs no
restart. [How a model keeps itself current](../learning.md#the-playbook) has it whole, to be copied.

Each heading below is a table of the file: `[trigger]` and so on. What stands in it holds for every model; the same
table under `[models.NAME]`, such as `[models.shoes.trigger]`, says otherwise for one. *auto* is written `"auto"` and
leaves the decision to the data. `imagemill playbook --model shoes` prints what holds.

"""


def page() -> str:
    """Give the page."""
    top = (item for item in fields(Playbook) if item.name not in (*TABLES, "model"))
    parts = [HEAD, "## Above the tables\n\n", _keys(Playbook, top)]
    for name, kind in TABLES.items():
        parts.append(f"## {name}\n\n{_about(kind)}\n\n{_keys(kind, iter(fields(kind)))}")
    return "".join(parts).rstrip() + "\n"


def _keys(kind: type, keys: "Iterator[Field[Any]]") -> str:
    said = remarks.fields(kind)
    rows = ((markdown.code(item.name), _default(item), _meaning(said.get(item.name, ""))) for item in keys)
    return markdown.table(("key", "default", "meaning"), rows)


def _about(kind: type) -> str:
    return remarks.about(kind).replace("or None means", "means")


def _meaning(said: str) -> str:
    """A file has no None: what is left open is "auto", or left out."""
    return said.replace("None takes", "left out, it is").replace("None:", "auto:")


def _default(item: "Field[Any]") -> str:
    value = item.default if item.default_factory is MISSING else item.default_factory()
    if value is None:
        return "*auto*" if item.name != "base" else ""
    if isinstance(value, dict):
        return markdown.code("{}")
    return markdown.code(json.dumps(value, default=sorted))
