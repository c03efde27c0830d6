"""The command line as a whole: help everywhere, settings without secrets, the schema, a worker's health."""

import argparse
import importlib
from collections.abc import Iterator

import pytest

from db import migrate
from tests.worker.machine import Machine
from worker.cli import commands, parser


def test_settings_hide_passwords(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEMILL_DATABASE_URL", "postgresql+psycopg://u@/mill?host=/run&password=hunter2&x=1")
    monkeypatch.setenv("IMAGEMILL_FLOWER_BASIC_AUTH", "ada:hunter2")
    monkeypatch.setenv("IMAGEMILL_DEVICE", "cuda:1")
    ran = machine.run("settings", "--json")
    values = {one["variable"].removeprefix("IMAGEMILL_"): one["value"] for one in ran.json}
    assert values["BROKER_URL"] == "redis://:***@127.0.0.1:1/0"
    assert values["DATABASE_URL"] == "postgresql+psycopg://u@/mill?host=/run&password=***&x=1"
    assert (values["FLOWER_BASIC_AUTH"], values["DEVICE"]) == ("ada:***", "cuda:1")
    assert all(one["about"] for one in ran.json)
    shown = machine.run("settings").out
    assert "hunter2" not in ran.out + shown
    assert "IMAGEMILL_MAX_IMAGE_PIXELS" in shown


def test_the_schema_is_upgraded_and_checked(machine: Machine) -> None:
    machine.ledger.unlink()
    for verb in ("upgrade", "check", "upgrade"):
        assert machine.run("db", verb, "--json").json == {"revision": migrate.head()}


def test_health_tells_whether_a_worker_lives(machine: Machine) -> None:
    ran = machine.run("health", "classify", "--json")
    assert (ran.code, ran.json) == (1, {"role": "classify", "alive": False, "workers": []})


def every_command(built: argparse.ArgumentParser, *names: str) -> Iterator[tuple[str, ...]]:
    yield names
    for action in built._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from every_command(below, *names, name)


@pytest.mark.parametrize("names", [*every_command(parser.build())], ids=" ".join)
def test_every_command_has_help(names: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        commands.main([*names, "--help"])
    assert left.value.code == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"usage: {' '.join(['imagemill', *names])}")
    assert told.err == ""


def test_every_command_names_a_function_that_exists() -> None:
    built = parser.build()
    for names in every_command(built):
        below = built
        for name in names:
            [action] = [one for one in below._actions if isinstance(one, argparse._SubParsersAction)]
            below = action.choices[name]
        if handler := below.get_default("handler"):
            module, function = handler.split(":")
            assert callable(getattr(importlib.import_module(f"worker.cli.{module}"), function)), handler
            assert "handler" not in [action.dest for action in below._actions], names
