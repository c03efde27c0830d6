"""What is wrong, with the world or with the request, is one sentence and an exit code a script can act on."""

import json
import signal
import sqlite3
from collections.abc import Callable, Iterator

import pytest

from tests.worker.machine import Machine, sentence

NOBODY = "11111111-2222-4333-8444-555555555555"


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
    "no schema": (no_schema, "There is no ledger here yet: `imagemill up` makes one, or `imagemill db upgrade`."),
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


@pytest.fixture
def own_signals() -> Iterator[None]:
    """What `up` does on a signal ends with the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("/gone/photos", "IMAGEMILL_ALLOWED_ROOTS names '/gone/photos', which is no folder here"),
        (
            "https://127.0.0.1",
            "IMAGEMILL_ALLOWED_ROOTS makes no sense. The root 'https://127.0.0.1' must be https://HOST",
        ),
        ("http://images.example.org", "IMAGEMILL_ALLOWED_ROOTS='http://images.example.org' makes no sense: give https"),
    ],
)
def test_a_root_that_names_no_place_is_said_before_anything_starts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, root: str, said: str
) -> None:
    monkeypatch.setenv("IMAGEMILL_ALLOWED_ROOTS", root)
    assert sentence(machine.run("up", "--no-flower"), 2).startswith(said)


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
