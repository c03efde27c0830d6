"""The command line at work in a home folder of its own, with a real ledger and no broker."""

import json
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sqlalchemy.orm import Session, sessionmaker

from pipeline import digits
from tests import builders as images
from tests.worker import builders
from worker.cli import commands

#: a broker that nobody is at, with a password that nobody may see
AWAY = "redis://:hunter2@127.0.0.1:1/0"
NINE = [f"s3://photos/{n}.jpg" for n in range(9)]


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


def sentence(ran: Ran, code: int) -> str:
    """Check that a command failed as promised; give what it said."""
    assert ran.code == code, ran
    assert ran.out == ""
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.startswith("imagemill: ")
    assert "hunter2" not in ran.err
    return ran.err.removeprefix("imagemill: ").rstrip("\n")
