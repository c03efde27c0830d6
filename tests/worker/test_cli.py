"""The command line: an exit code a script can act on, and one sentence where something is wrong."""

import argparse
import json
import re
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sqlalchemy.orm import Session, sessionmaker

from db import leases, migrate, session
from pipeline import checkpoints, digits
from tests import builders as images
from tests.db import builders as rows
from tests.worker import builders
from worker.cli import commands, parser

NOBODY = "11111111-2222-4333-8444-555555555555"
NINE = [f"s3://photos/{n}.jpg" for n in range(9)]
AWAY = "redis://:hunter2@127.0.0.1:1/0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A home folder with a migrated ledger, and the command line in it; nothing else runs."""

    home: Path
    capture: pytest.CaptureFixture[str]
    sessions: sessionmaker[Session]

    def run(self, *arguments: object) -> Ran:
        """Run one command in this process."""
        self.capture.readouterr()
        code = commands.main([str(argument) for argument in arguments])
        told = self.capture.readouterr()
        return Ran(code=code, out=told.out, err=told.err)

    @property
    def ledger(self) -> Path:
        return self.home / "ledger.sqlite"

    def import_model(self, *more: object, seed: int = 1) -> Ran:
        """Import a tiny network's weights from a file."""
        weights, classes = self.home / f"weights-{seed}.pt", self.home / "classes.txt"
        torch.save(images.tiny_network(seed=seed).state_dict(), weights)
        classes.write_text("cat\ndog\nhen\n")
        named = ("--arch", digits.ARCH, "--weights", weights, "--classes", classes, "--model", builders.MODEL)
        return self.run("models", "import", *named, *more)

    def submit(self, **fields: object) -> uuid.UUID:
        """Put a job into the ledger, as intake does."""
        return builders.submit(builders.desk(self.sessions, self.home), NINE, **fields)


@pytest.fixture
def machine(
    tmp_path: Path,
    sqlite_template: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Machine]:
    home = tmp_path / "mill"
    home.mkdir()
    shutil.copyfile(sqlite_template, home / "ledger.sqlite")
    monkeypatch.setenv("IMAGEMILL_HOME", str(home))
    monkeypatch.setenv("IMAGEMILL_BROKER_URL", AWAY)
    sessions = session.connect(f"sqlite:///{home / 'ledger.sqlite'}")
    yield Machine(home=home, capture=capsys, sessions=sessions)
    session.engine_of(sessions).dispose()


def sentence(ran: Ran, code: int) -> str:
    """Check that a command failed as promised; give what it said."""
    assert ran.code == code, ran
    assert ran.out == ""
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.startswith("imagemill: ")
    assert "hunter2" not in ran.err
    return ran.err.removeprefix("imagemill: ").rstrip("\n")


# ---------------------------------------------------------------- what is wrong with the world


def set_to(name: str, value: str) -> Callable[[Machine, pytest.MonkeyPatch], None]:
    return lambda machine, patch: patch.setenv(f"IMAGEMILL_{name}", value.format(home=machine.home))


def no_schema(machine: Machine, _: pytest.MonkeyPatch) -> None:
    machine.ledger.unlink()


def newer_schema(machine: Machine, _: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(machine.ledger) as ledger:
        ledger.execute("UPDATE alembic_version SET version_num = 'from_tomorrow'")
    ledger.close()


def no_ledger_file(machine: Machine, _: pytest.MonkeyPatch) -> None:
    machine.ledger.write_text("This is a letter, not a ledger. " * 99)


LEDGERS = {
    "no folder": (set_to("DATABASE_URL", "sqlite:///{home}/gone/x.db"), "Cannot reach the ledger at /"),
    "a folder": (set_to("DATABASE_URL", "sqlite:///{home}"), "Cannot reach the ledger at /"),
    "another file": (no_ledger_file, "Cannot reach the ledger at /"),
    "postgres away": (
        set_to("DATABASE_URL", "postgresql+psycopg://u:hunter2@127.0.0.1:1/mill"),
        "Cannot reach the ledger at 127.0.0.1/mill: connection failed",
    ),
    "no schema": (no_schema, "The ledger's schema is older than this release: run `imagemill db upgrade`."),
    "newer schema": (newer_schema, "The ledger's schema is newer than this release: upgrade this imagemill."),
    "a bad setting": (set_to("BATCH_SIZE", "many"), "IMAGEMILL_BATCH_SIZE='many' makes no sense: give a whole number"),
    "no such setting": (set_to("BATCHSIZE", "8"), "IMAGEMILL_BATCHSIZE is not a setting; did you mean IMAGEMILL_BATCH"),
}


@pytest.mark.parametrize(("harm", "said"), LEDGERS.values(), ids=LEDGERS)
@pytest.mark.parametrize(
    "arguments", [("jobs", "list"), ("models", "list"), ("status",), ("db", "check")], ids=" ".join
)
def test_a_ledger_out_of_reach_is_one_sentence(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, harm: Callable, said: str, arguments: tuple[str, ...]
) -> None:
    harm(machine, monkeypatch)
    assert sentence(machine.run(*arguments), 2).startswith(said)


BROKERLESS = {
    "submit": ("submit", "s3://photos/1.jpg"),
    "submit and wait": ("submit", "s3://photos/1.jpg", "--wait"),
    "intake": ("worker", "intake"),
    "beat": ("beat",),
}


@pytest.mark.parametrize("arguments", BROKERLESS.values(), ids=BROKERLESS)
def test_a_broker_out_of_reach_is_one_sentence(machine: Machine, arguments: tuple[str, ...]) -> None:
    said = sentence(machine.run(*arguments), 2)
    assert said.startswith("No Redis answers at redis://:**@127.0.0.1:1/0 (Error 111 connecting to 127.0.0.1:1. Conn")
    assert "imagemill up" in said


def test_a_program_gets_its_error_as_json(machine: Machine) -> None:
    ran = machine.run("jobs", "show", NOBODY, "--json")
    assert (ran.code, ran.out) == (2, "")
    assert json.loads(ran.err) == {"error": {"kind": "UnknownJob", "message": f"There is no job {NOBODY}."}}


# ---------------------------------------------------------------- what is wrong with the request

UNKNOWN = {
    "job": (("jobs", "show", NOBODY), f"There is no job {NOBODY}."),
    "job's results": (("jobs", "results", NOBODY), f"There is no job {NOBODY}."),
    "job to cancel": (("jobs", "cancel", NOBODY), f"There is no job {NOBODY}."),
    "job to retry": (("jobs", "retry", NOBODY), f"There is no job {NOBODY}."),
    "no job id": (("jobs", "show", "seven"), "`job_id` must be a UUID."),
    "version": (("models", "show", "cats:7"), "There is no version 'cats:7'."),
    "huge version": (("models", "show", f"cats:{10**20}"), f"There is no version 'cats:{10**20}'."),
    "version to promote": (("models", "promote", "cats:7"), "There is no version 'cats:7'."),
    "version to verify": (("models", "verify", "cats:7"), "There is no version 'cats:7'."),
    "model": (("models", "show", "cats"), "No version of a model 'cats' serves"),
    "model to roll back": (("models", "rollback", "cats"), "No version of a model 'cats' serves"),
    "model's history": (("models", "history", "cats"), "There is no model 'cats'; see `imagemill models list`."),
    "nothing to submit": (("submit",), "Give references, or --manifest FILE: one of the two."),
    "both": (("submit", "a.jpg", "--manifest", "m.jsonl"), "Give references, or --manifest FILE: one of the two."),
    "manifest": (("submit", "--manifest", "gone.jsonl"), "There is no manifest 'gone.jsonl'."),
    "glob": (("submit", "gone/*.jpg"), "Nothing matches 'gone/*.jpg'."),
    "ending": (("submit", "a.jpg", "--out", "out.xlsx"), "'out.xlsx' does not end in .jsonl, .csv or .parquet;"),
    "image to send": (("submit", "--inline", "/gone.jpg"), "/gone.jpg cannot be read: No such file or directory."),
    "bare flower": (("flower",), "Flower never runs open: set IMAGEMILL_FLOWER_BASIC_AUTH=user:password"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_does_not_exist_is_one_sentence(machine: Machine, arguments: tuple[str, ...], said: str) -> None:
    assert sentence(machine.run(*arguments), 2).startswith(said)


def test_a_bad_line_of_a_manifest_is_named_before_anything_is_sent(machine: Machine) -> None:
    file = machine.home / "m.jsonl"
    file.write_text('"1.jpg"\n{"reference": 7}\n')
    said = sentence(machine.run("submit", "--manifest", file), 2)
    assert said == "Line 2: `reference` must be text of 1 to 4096 characters."


IMPORTS = {
    "architecture": ({"--arch": "resnet1"}, 2, "resnet1"),
    "no factory": ({"--arch": "pipeline.digits:gone"}, 2, "pipeline.digits:gone"),
    "weights": ({"--weights": "{home}/gone.pt"}, 1, "gone.pt"),
    "weights that are none": ({"--weights": "{home}/classes.txt"}, 1, "classes.txt"),
    "classes": ({"--classes": "{home}/gone.txt"}, 2, "gone.txt"),
    "repeated classes": ({"--classes": "{home}/twice.txt"}, 2, "Classes must be unique"),
    "too few classes": ({"--classes": "{home}/two.txt"}, 1, "the number of classes"),
    "model name": ({"--model": "Cats!"}, 2, "'Cats!' cannot name a model"),
    "option": ({"--arch-option": "7"}, 2, "--arch-option takes NAME=VALUE, not '7'."),
}


@pytest.mark.parametrize(("changed", "code", "said"), IMPORTS.values(), ids=IMPORTS)
def test_an_import_that_cannot_be_is_one_sentence(
    machine: Machine, changed: dict[str, str], code: int, said: str
) -> None:
    (machine.home / "twice.txt").write_text("cat\ncat\nhen\n")
    (machine.home / "two.txt").write_text("cat\ndog\n")
    more = [part.format(home=machine.home) for pair in changed.items() for part in pair]
    assert said in sentence(machine.import_model(*more), code)
    assert machine.run("models", "list").out == "Versions: none\n"


@pytest.mark.parametrize("arguments", [("jobs", "list", "--limit", "-1"), ("fly",), ("submit", "--priority", "urgent")])
def test_wrong_usage_exits_with_two(machine: Machine, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        machine.run(*arguments)
    assert left.value.code == 2


# ---------------------------------------------------------------- models


def test_a_version_is_made_from_a_file_and_the_first_one_serves(machine: Machine) -> None:
    ran = machine.import_model()
    assert (ran.code, ran.err) == (0, "")
    assert "tensors fit, mapped by names." in ran.out
    assert "cats:1 serves; submit images with: imagemill submit --wait photos/ --model cats" in ran.out
    assert "add cats to IMAGEMILL_MODELS" in ran.out
    second = machine.import_model("--json", seed=2).json
    assert (second["name"], second["serves"], second["report"]["mapped_by"]) == ("cats:2", False, "names")
    listed = machine.run("models", "list", "--json").json
    assert [(one["name"], one["serves"]) for one in listed] == [("cats:2", False), ("cats:1", True)]


def test_a_version_shows_its_card_and_its_modules(machine: Machine) -> None:
    machine.import_model()
    shown = machine.run("models", "show", "cats").out
    for fact in ("cats:1 pipeline.digits:small_network", "classes    3: cat, dog, hen", "resize 32, crop 32"):
        assert fact in shown
    assert re.search(r"Conv2d [\d,]+  trainable  weight \d+×3×3×3", shown)
    told = machine.run("models", "show", "cats:1", "--json").json
    assert told["card"]["classes"] == ["cat", "dog", "hen"]
    assert {"name", "type", "depth", "num_parameters", "trainable", "shapes"} <= set(told["modules"][0])


def test_the_pointer_moves_forth_and_back_and_remembers(machine: Machine) -> None:
    for seed in (1, 2):
        machine.import_model(seed=seed)
    assert machine.run("models", "promote", "cats:2", "--reason", "better [/b]").out.startswith("cats:2 serves now;")
    assert machine.run("models", "rollback", "cats", "--json").json["name"] == "cats:1"
    history = machine.run("models", "history", "cats", "--json").json
    moves = [(one["kind"], one["previous"], one["version"], one["reason"]) for one in history]
    assert moves == [
        ("promote", None, "cats:1", "the model's first version"),
        ("promote", "cats:1", "cats:2", "better [/b]"),
        ("rollback", "cats:2", "cats:1", ""),
    ]
    assert "better [/b]" in machine.run("models", "history", "cats").out
    assert sentence(machine.run("models", "rollback", "cats"), 1) == "No version of 'cats' served before cats:1."


def test_a_whole_checkpoint_is_verified(machine: Machine) -> None:
    machine.import_model()
    assert machine.run("models", "verify", "cats:1").out.startswith("cats:1 is whole")
    assert machine.run("models", "verify", "cats", "--json").json["verified"] is True


@pytest.mark.parametrize("verb", ["verify", "promote"])
@pytest.mark.parametrize("name", [checkpoints.WEIGHTS, checkpoints.PARITY, checkpoints.CARD])
def test_a_checkpoint_with_a_flipped_byte_is_refused(machine: Machine, verb: str, name: str) -> None:
    machine.import_model()
    reference = machine.import_model("--json", seed=2).json["reference"]
    file = Path(reference.removeprefix("file://")) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert f"{name} of {reference} was changed" in sentence(machine.run("models", verb, "cats:2"), 1)
    assert [one["serves"] for one in machine.run("models", "list", "--json").json] == [False, True]


# ---------------------------------------------------------------- jobs


@pytest.fixture
def job_id(machine: Machine, saved: tuple[checkpoints.Saved, ...]) -> uuid.UUID:
    """A job of nine items, the first four done, of them one failed."""
    builders.version(machine.sessions, saved[0], serves=True)
    job_id = machine.submit(idempotency_key="[/order] 7", caller="shop")
    with session.transaction(machine.sessions) as transaction:
        claim = leases.claim(transaction, builders.shards(machine.sessions)[0].id, owner="ada", lease_s=60.0)
        leases.finish(transaction, claim, rows.outcomes_of(claim, failing={1}))
    return job_id


def test_jobs_are_listed_and_shown(machine: Machine, job_id: uuid.UUID) -> None:
    listed = machine.run("jobs", "list").out
    assert str(job_id) in listed
    assert "running" in listed
    [one] = machine.run("jobs", "list", "--json").json
    assert (one["id"], one["num_failed"]) == (str(job_id), 1)
    assert machine.run("jobs", "list", "--state", "failed", "--json").json == []
    shown = machine.run("jobs", "show", job_id).out
    for fact in ("4 of 9 done, 1 failed", "[/order] 7", "cats, version cats:1", "No classify worker serves"):
        assert fact in shown
    assert machine.run("jobs", "show", job_id, "--json").json["num_items"] == 9


def test_results_and_errors_are_printed_or_written(machine: Machine, job_id: uuid.UUID) -> None:
    printed = [json.loads(line) for line in machine.run("jobs", "results", job_id).out.splitlines()]
    assert [one["position"] for one in printed] == [0, 1, 2, 3]
    [failed] = machine.run("jobs", "errors", job_id).out.splitlines()
    assert json.loads(failed)["error"]["message"] == "not an image"
    header, *lines = machine.run("jobs", "results", job_id, "--format", "csv").out.splitlines()
    assert (header.split(",")[0], len(lines)) == ("position", 4)
    out = machine.home / "out.parquet"
    assert machine.run("jobs", "results", job_id, "--out", out).err == f"4 outcomes are in {out}.\n"
    assert sentence(machine.run("jobs", "results", job_id, "--format", "parquet"), 2).startswith("Parquet goes to a")


def test_a_job_is_cancelled_once_and_retried(machine: Machine, job_id: uuid.UUID) -> None:
    cancelled = machine.run("jobs", "cancel", job_id)
    assert (cancelled.code, cancelled.out) == (0, f"Job {job_id} is cancelled; 4 of 9 outcomes are kept.\n")
    assert sentence(machine.run("jobs", "cancel", job_id), 1) == f"Job {job_id} is cancelled already."
    assert machine.run("jobs", "retry", job_id).out == f"6 items of job {job_id} wait again.\n"
    assert machine.run("jobs", "show", job_id, "--json").json["state"] == "running"
    assert len(machine.run("jobs", "results", job_id).out.splitlines()) == 3


# ---------------------------------------------------------------- the machine


def test_status_works_while_redis_is_down(machine: Machine, job_id: uuid.UUID) -> None:
    told = machine.run("status", "--json").json
    assert told["broker"].startswith("No Redis answers")
    assert told["serving"] == {"cats": "cats:1"}
    assert [one["num_items"] for one in told["waiting"]] == [5]
    shown = machine.run("status")
    assert str(job_id) in shown.out
    assert "hunter2" not in shown.out


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


@pytest.mark.parametrize("names", every_command(parser.build()), ids=" ".join)
def test_every_command_has_help(names: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        commands.main([*names, "--help"])
    assert left.value.code == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"usage: {' '.join(['imagemill', *names])}")
    assert told.err == ""


def test_every_command_names_a_function_that_exists() -> None:
    import importlib

    built = parser.build()
    for names in every_command(built):
        below = built
        for name in names:
            [action] = [one for one in below._actions if isinstance(one, argparse._SubParsersAction)]
            below = action.choices[name]
        if run := below.get_default("run"):
            module, function = run.split(":")
            assert callable(getattr(importlib.import_module(f"worker.cli.{module}"), function)), run
