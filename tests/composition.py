"""The compose file, and what it starts, without containers.

Takes docker-compose.yml. Gives its services as values, and each one's own command as a process of this machine.
Knows nothing of what is tested.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from worker.stack import redis_server

REPOSITORY = Path(__file__).parent.parent
#: services that run our image for as long as they are wanted
OURS = ("intake", "classify", "learn", "upkeep", "beat", "http", "flower", "webhook")
#: those of them that write no heartbeat: they answer over HTTP
ASKED_OVER_HTTP = ("http", "flower", "webhook")
#: started once, and ended
ONE_SHOT = ("migrate", "cli")
#: services of other people's images
THEIRS = ("redis", "postgres")
#: what the image runs; a service's command is its arguments
ENTRYPOINT = ("python", "-m", "worker")
#: where the documented commands that make the secrets begin
SECRETS_MARK = "<!-- secrets:"
#: and those that bring older ones to what is needed now
UPGRADE_MARK = "<!-- upgrade:"


class _Loader(yaml.SafeLoader):
    """YAML with the compose specification's own tags."""


_Loader.add_constructor("!reset", lambda _loader, _node: None)
_Loader.add_constructor("!override", lambda loader, node: loader.construct_mapping(node, deep=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service, with every host variable at its default."""

    name: str
    body: Mapping[str, Any]

    @property
    def command(self) -> list[str]:
        return list(self.body["command"])

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.body.get("environment", {}))

    @property
    def health(self) -> list[str]:
        """The health check as it is run: an exec-form command, or a shell's."""
        kind, *command = self.body["healthcheck"]["test"]
        return ["/bin/sh", "-c", *command] if kind == "CMD-SHELL" else command

    @property
    def grace_s(self) -> float:
        return seconds(self.body["stop_grace_period"])


def newest_redis() -> str:
    """Find a Redis 7, as the composition runs one, or else that of the wheel."""
    return shutil.which("redis-server") or redis_server()


def knows_selectors() -> bool:
    """Whether the Redis here reads rights in brackets, which came with Redis 7."""
    told = subprocess.run([newest_redis(), "--version"], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"v=(\d+)", told)[1]) >= 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A folder that stands for the containers' folders, and ports that stand for theirs."""

    folder: Path
    redis_port: int
    flower_port: int
    http_port: int
    webhook_port: int

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def here(self, service: Service, text: str) -> str:
        """Give the text with the container's folders, addresses and ports replaced by this site's."""
        ours = {
            "/run/secrets": self.secrets,
            "/var/lib/imagemill/store": self.folder / "store",
            "/images": self.images,
            "/etc/imagemill": REPOSITORY / "deploy",
            "/data": self.folder / "redis",
            "/tmp": self.temporary(service),  # noqa: S108 - the container's
            "redis-cli": f"redis-cli -p {self.redis_port}",
            "5555": self.flower_port,
            "8090": self.webhook_port,
            "8080": self.http_port,
            "0.0.0.0": "127.0.0.1",
            "cuda": "cpu",
        }
        names = "|".join(map(re.escape, ours))
        return re.sub(rf"(?:{names})(?!\w)", lambda found: str(ours[found[0]]), text)

    def temporary(self, service: Service) -> Path:
        """Give the folder that stands for the one that the service may write."""
        return self.folder / f"tmp-{service.name}"

    def environment(self, service: Service) -> dict[str, str]:
        """Give all that a process of the service sees: the image's variables and the service's, nothing of ours."""
        theirs = image_environment() | service.environment
        mapped = {name: self.here(service, value) for name, value in theirs.items()}
        path = [Path(sys.executable).parent, Path(newest_redis()).parent, "/usr/bin", "/bin"]
        ours = {"PATH": ":".join(map(str, path)), "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(self.temporary(service))}
        return mapped | ours

    def start(self, service: Service, *command: str) -> "subprocess.Popen[bytes]":
        """Start a command of the service as it would run in its container; what it says goes to its log."""
        cwd = self.folder / "cwd"
        for folder in (self.temporary(service), cwd):
            folder.mkdir(exist_ok=True)
        with self.log(service).open("ab") as out:
            environ = self.environment(service)
            name, *rest = command
            program = newest_redis() if name == "redis-server" else shutil.which(name, path=environ["PATH"]) or name
            return subprocess.Popen(
                [program, *(self.here(service, part) for part in rest)],
                env=environ,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def run(self, service: Service, *command: str, timeout_s: float) -> int:
        """Run a command of the service to its end and give its exit code."""
        process = self.start(service, *command)
        try:
            return process.wait(timeout_s)
        finally:
            process.kill()
            process.wait()

    def log(self, service: Service) -> Path:
        return self.folder / f"{service.name}.log"


def load(name: str) -> dict[str, Any]:
    """Read a compose file as it stands."""
    return yaml.load((REPOSITORY / name).read_text(), _Loader)  # noqa: S506 - a safe loader with one more tag


@cache
def services() -> dict[str, Service]:
    """Read the services of docker-compose.yml, with every `${NAME:-default}` at its default."""
    bodies = _interpolated(load("docker-compose.yml")["services"])
    return {name: Service(name=name, body=body) for name, body in bodies.items()}


def image_environment() -> dict[str, str]:
    """Read the variables that the Dockerfile sets in the last stage."""
    last_stage = (REPOSITORY / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    block = re.search(r"^ENV (.*?[^\\])$", last_stage, re.DOTALL | re.MULTILINE)
    return dict(part.split("=", 1) for part in block[1].replace("\\\n", " ").split())


def make_secrets(folder: Path) -> None:
    """Run the commands that docs/deploy.md gives for making the secrets."""
    _run(_documented(SECRETS_MARK), folder)


def renew_secrets(folder: Path) -> None:
    """Run the commands that docs/deploy.md gives for bringing older secrets to what is needed now."""
    (folder.parent / "make_secrets").write_text(_documented(SECRETS_MARK))
    _run(_documented(UPGRADE_MARK), folder)


def _documented(mark: str) -> str:
    """Give the block of commands behind a mark of docs/deploy.md."""
    _, _, after = (REPOSITORY / "docs/deploy.md").read_text().partition(mark)
    return after.split("```")[1].removeprefix("sh\n")


def _run(commands: str, folder: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "SECRETS_DIR": str(folder)}
    subprocess.run(["/bin/sh", "-c", commands], check=True, env=environ, cwd=folder.parent)


def seconds(duration: str) -> float:
    """Read a duration of the compose file."""
    return float(duration.removesuffix("s"))


def _interpolated(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _interpolated(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item) for item in value]
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) if isinstance(value, str) else value
