"""Takes a TOML file. Gives each model's playbook: what it starts from, recipe, thresholds, gate, trigger, live check.

Knows nothing of torch or SQL: the scheduler reads it. What it holds is stored whole with every run.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from croniter import croniter

from pipeline.classes import check_classes
from pipeline.errors import ClassesInvalid
from pipeline.learning.recipes import Recipe
from worker import messages
from worker.errors import PlaybookInvalid

Match = Literal["any", "all"]
DAY_S = 86_400.0
#: what no number of a playbook reaches
MAX_NUMBER = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerPolicy:
    """When a tick starts a run by itself. A condition at 0, false or "" does not count."""

    #: whether ticks start runs at all
    is_on: bool = True
    #: five fields of cron, in UTC: "0 3 * * 1" is Monday at three
    cron: str = ""
    #: labels since the last run's snapshot, at least ...
    min_new_labels: int = 50
    #: ... and as a share of what that snapshot held, whichever is more (science: 10 % of train)
    min_new_share: float = 0.10
    #: new labels of one class
    min_new_per_class: int = 0
    #: labels of a class that the serving version does not know
    min_new_class_labels: int = 10
    #: seconds since the last run, if there is anything new at all
    max_age_s: float = 30 * DAY_S
    #: two drift alarms running
    drift: bool = True
    #: seconds after a run in which no tick starts another
    cooldown_s: float = 3600.0
    #: whether one condition is enough, or all that count must hold
    match: Match = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePolicy:
    """What of a promoted version's first work leads back to the one before."""

    #: whether promotions by the gate are watched
    is_on: bool = True
    #: outcomes of the new version that are looked at, at least
    min_items: int = 100
    #: items of the old version that are classified again by the new one
    num_replayed: int = 200
    #: seconds after which a version that gave no cause for alarm is left alone
    watch_s: float = DAY_S
    #: rise of the share of items that fail in the model, in load or forward
    max_error_rise: float = 0.02
    #: rise of the share of items whose score lies below the abstention threshold
    max_abstention_rise: float = 0.20
    #: share of replayed items that both versions know and disagree on
    max_disagreement: float = 0.30


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftPolicy:
    """How recorded predictions are compared with those of the frozen test images (science 3.6)."""

    #: outcomes in one window; fewer have too little power
    num_items: int = 200
    #: chance of a false alarm in one window
    alpha: float = 0.05
    #: alarms in a row that count
    num_alarms: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Playbook:
    """Everything that decides how one model learns."""

    model: str
    #: version whose weights a run starts from, `imagenet:1`; None takes the first ancestor of what serves
    base: str | None = None
    #: the closed list of classes; empty lets a label open a new one
    classes: tuple[str, ...] = ()
    #: accuracy for which the labels needed are estimated
    target_accuracy: float = 0.95
    #: error the abstention threshold keeps below, with 95 % confidence
    target_risk: float = 0.05
    recipe: Recipe = field(default_factory=Recipe)
    #: fields of `similarity.ProbePolicy`, `plan.Thresholds` and `gate.GatePolicy` that differ from the defaults
    probe: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    trigger: TriggerPolicy = field(default_factory=TriggerPolicy)
    live: LivePolicy = field(default_factory=LivePolicy)
    drift: DriftPolicy = field(default_factory=DriftPolicy)

    def as_dict(self) -> dict[str, Any]:
        """Give what is stored with a run, as JSON values."""
        kept = {item.name: getattr(self, item.name) for item in fields(self)}
        policies = {name: asdict(kept[name]) for name in ("trigger", "live", "drift")}
        return kept | {"recipe": self.recipe.as_dict(), "classes": list(self.classes)} | policies

    @classmethod
    def from_dict(cls, model: str, given: Mapping[str, Any]) -> "Playbook":
        """Read a model's tables. Raises `PlaybookInvalid`, and `RecipeInvalid` for the recipe."""
        values = dict(given)
        read: dict[str, Any] = {
            "recipe": Recipe.from_dict(_table(values, "recipe")),
            "trigger": _policy(TriggerPolicy, _table(values, "trigger"), f"{model}.trigger"),
            "live": _policy(LivePolicy, _table(values, "live"), f"{model}.live"),
            "drift": _policy(DriftPolicy, _table(values, "drift"), f"{model}.drift"),
            "classes": _classes(values.pop("classes", ()), model),
        }
        read |= {name: _table(values, name) for name in ("probe", "plan", "gate")}
        _refuse_unknown(values, [item.name for item in fields(cls) if item.name != "model"], model)
        return _checked(cls(model=model, **read, **values))


def read(file: str | Path, model: str) -> Playbook:
    """Read one model's playbook: the file's own tables, overlaid by those under `models.<name>`.

    An empty `file` gives the defaults. Raises `PlaybookInvalid` and `RecipeInvalid`.
    """
    if not str(file):
        return Playbook(model=model)
    everything = _load(Path(file).expanduser())
    own = _table(_table(everything, "models"), model)
    try:
        return Playbook.from_dict(model, _overlaid(everything, own))
    except TypeError as wrong:
        raise PlaybookInvalid(f"The playbook of {model} has a value of the wrong kind: {wrong}.") from None


def _load(file: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as wrong:
        raise PlaybookInvalid(f"The playbook {file} cannot be read: {wrong.strerror}.") from None
    except (ValueError, RecursionError) as wrong:  # beside TOMLDecodeError: no UTF-8, thousands of digits or brackets
        raise PlaybookInvalid(f"The playbook {file} is not TOML: {wrong}.") from None
    _check_storable(tables)
    return tables


def _check_storable(value: object) -> None:
    """Refuse what JSON cannot keep: dates, nan and inf, and numbers that TOML does not promise either."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_storable(inner)
    elif isinstance(value, int | float) and not -MAX_NUMBER < value < MAX_NUMBER:
        raise PlaybookInvalid("The playbook holds nan, inf or a number beyond 64 bits, which set nothing.")
    elif not isinstance(value, int | float | str):
        raise PlaybookInvalid(f"The playbook holds {value}, a date or time; nothing in it is one.")


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    tables = {name: {**below[name], **above[name]} for name in below if isinstance(above.get(name), Mapping)}
    return {**below, **above, **tables}


def _table(values: dict[str, Any], name: str) -> dict[str, Any]:
    table = values.pop(name, {})
    if not isinstance(table, Mapping):
        raise PlaybookInvalid(f"`{name}` of a playbook is a table, [{name}].")
    return dict(table)


Policy = TypeVar("Policy", TriggerPolicy, LivePolicy, DriftPolicy)


def _policy(kind: type[Policy], table: Mapping[str, Any], where: str) -> Policy:
    _refuse_unknown(table, [item.name for item in fields(kind)], where)
    for name, value in table.items():
        default = getattr(kind(), name)
        alike = type(value) in (int, float) if isinstance(default, float) else type(value) is type(default)
        if not alike or (isinstance(value, int | float) and value < 0):
            raise PlaybookInvalid(f"{where}.{name} = {value!r} makes no sense; its default is {default!r}.")
    return kind(**table)


def _refuse_unknown(given: Mapping[str, Any], known: list[str], where: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it knows {', '.join(known)}."
            raise PlaybookInvalid(f"The playbook has no {where}.{name}; {hint}")


def _checked(playbook: Playbook) -> Playbook:
    for name in ("target_accuracy", "target_risk"):
        value = getattr(playbook, name)
        if type(value) not in (int, float) or not 0 < value <= 1:
            raise PlaybookInvalid(f"{playbook.model}.{name} is {value!r}; give a share such as 0.95.")
    if playbook.trigger.cron and not _comes_due(playbook.trigger.cron):
        raise PlaybookInvalid(f"{playbook.model}.trigger.cron = {playbook.trigger.cron!r} is not five fields of cron.")
    if playbook.trigger.match not in ("any", "all"):
        raise PlaybookInvalid(f"{playbook.model}.trigger.match is {playbook.trigger.match!r}; give any or all.")
    base = playbook.base
    if base is not None and not (isinstance(base, str) and messages.VERSION_NAME.fullmatch(base)):
        raise PlaybookInvalid(f"{playbook.model}.base is {playbook.base!r}; give a version such as imagenet:1.")
    return playbook


def _comes_due(cron: str) -> bool:
    """Whether it is five fields of cron that name a moment there is: the 31st of February never comes."""
    try:
        return len(cron.split()) == 5 and croniter(cron, 0.0).get_next(float) > 0
    except ValueError:
        return False


def _classes(given: object, model: str) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise PlaybookInvalid(f"{model}.classes is a list of names.")
    try:
        return check_classes(given) if given else ()
    except ClassesInvalid as wrong:
        raise PlaybookInvalid(f"{model}.classes: {wrong}") from None
