"""Takes the settings' fields. Gives the page that names every variable. Knows nothing of what they are used for."""

from dataclasses import Field, fields
from typing import Any

from docs.generate import markdown
from worker import settings

#: Defaults that are not the same on every machine.
BY_MACHINE = {"decode_threads": "the cores, 8 at most"}

HEAD = f"""\
# Settings

Every process of imagemill reads its settings from the environment, once, when it starts. A name that does not exist and
a value that makes no sense end it with one sentence. `imagemill settings` prints what holds on this machine.

For any of them `NAME_FILE` names a file that holds the value: that is how a password stays out of the environment. The
values of {{secrets}} are never shown.

Switches are `yes` or `no`. What says how a model learns is not here but in [the playbook](playbook.md). Variables that
begin with `{settings.FOREIGN[0]}` belong to the tests.

"""


def page() -> str:
    """Give the page."""
    secrets = ", ".join(markdown.code(_name(item)) for item in fields(settings.Settings) if _is_secret(item))
    rows = ((markdown.code(_name(item)), _default(item), item.metadata["about"]) for item in fields(settings.Settings))
    return (HEAD.format(secrets=secrets) + markdown.table(("variable", "default", "meaning"), rows)).rstrip() + "\n"


def _name(item: "Field[Any]") -> str:
    return settings.PREFIX + item.name.upper()


def _is_secret(item: "Field[Any]") -> bool:
    return item.name in settings.SECRETS


def _default(item: "Field[Any]") -> str:
    if item.name in BY_MACHINE:
        return BY_MACHINE[item.name]
    value = item.default
    if isinstance(value, bool):
        return markdown.code("yes" if value else "no")
    return markdown.code(",".join(value) if isinstance(value, tuple) else str(value))
