"""Takes the environment. Gives `Settings`, and one sentence for each variable that makes no sense.

Knows nothing of what the settings are used for. The only reader of `IMAGEMILL_*`.
"""

import difflib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from worker import messages, signatures

PREFIX = "IMAGEMILL_"
#: `IMAGEMILL_TEST_...` belongs to the test suite.
FOREIGN = ("IMAGEMILL_TEST_",)
#: Cores this process may use, which may be fewer than the machine has.
NUM_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
#: How a setting is turned on and off; `str` of a bool, too, which is how one process tells another.
SWITCHES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
#: What NVIDIA's driver shows of itself; asking torch would put CUDA into a process that only starts others.
GPU = Path("/dev/nvidiactl")
#: Classify workers that `up` starts on a CPU by itself. Two threads in one process wait for the interpreter as much as
#: for a core, and each process holds its own copy of torch and of the model (DECISIONS.md).
MOST_PROCESSES = 4
#: Seconds a task may plan for at most: with its last batch it must end before Celery's soft limit of 240 s.
LONGEST_SITTING_S = 120.0
#: Settings whose value is never shown.
SECRETS = frozenset(
    {"broker_url", "database_url", "flower_basic_auth", "webhook_token", "callback_secret", "metrics_token"}
)
#: Characters of a token at least: 16 random ones cannot be guessed.
MIN_TOKEN = 16
#: A host by its DNS name, in any spelling that URLs take, and perhaps a port.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
HOST = re.compile(rf"(?=[^:]{{4,253}}(?:\Z|:))(?:{_LABEL}\.)+(?=[a-z]){_LABEL}(?::(?P<port>[1-9][0-9]{{0,4}}))?")
#: Bytes that a Unix socket's name may take (108 with the final NUL, sun_path).
MAX_SOCKET_NAME = 107


class SettingsInvalid(ValueError):
    """An `IMAGEMILL_*` variable is unknown or has a value that makes no sense."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _models(text: str) -> tuple[str, ...]:
    names = _names(text)
    if not names or not all(messages.MODEL_NAME.fullmatch(name) for name in names):
        raise ValueError("give model names of lower-case letters, digits and _ . -, separated by commas")
    return names


def _roots(text: str) -> tuple[str, ...]:
    names = _names(text)
    if not all(name.startswith("/") or "://" in name for name in names):
        raise ValueError("give absolute folders or URLs such as s3://bucket/folder, separated by commas")
    if any(name.lower().startswith("http://") for name in names):
        raise ValueError("give https://, not http://: nothing proves who answers the latter")
    return names


def _positive(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError("give a whole number of at least 1")
    return int(text)


def _natural(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError("give a whole number of at least 0")
    return int(text)


def _switch(text: str) -> bool:
    if text.strip().lower() not in SWITCHES:
        raise ValueError("give yes or no")
    return SWITCHES[text.strip().lower()]


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise ValueError("give a number of seconds above 0")


def _broker(text: str) -> str:
    try:
        return messages.check_broker_url(text) if text else text
    except messages.MessageInvalid:
        raise ValueError("give a redis://, rediss://, redis+socket:// or sentinel:// URL") from None


def _link(text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise ValueError("give an http:// or https:// URL")
    return text


def _database(text: str) -> str:
    if text and not text.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise ValueError("give a sqlite:///FILE or postgresql+psycopg:// URL")
    return text


def _sitting(text: str) -> float:
    value = _seconds(text)
    if value > LONGEST_SITTING_S:
        raise ValueError(f"give at most {LONGEST_SITTING_S:.0f} seconds")
    return value


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise ValueError("give a number above 0 and at most 1")


def _token(text: str) -> str:
    if text and (len(text) < MIN_TOKEN or not text.isascii() or not text.isprintable() or " " in text):
        raise ValueError(f"give at least {MIN_TOKEN} ASCII characters without a space")
    return text


def _hosts(text: str) -> tuple[str, ...]:
    names = _names(text.lower())
    found = [HOST.fullmatch(name) for name in names]
    if not all(one and int(one["port"] or 1) < 1 << 16 for one in found):
        raise ValueError("give DNS names such as hooks.example.org, perhaps with :PORT, separated by commas")
    return names


def _signing(text: str) -> str:
    for secret in text.split():
        signatures.parse(secret)
    return text


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"give one of {', '.join(allowed)}")
        return text

    return parse


def _setting(parse: Callable[[str], Any], default: Any, about: str) -> Any:
    return field(default=default, metadata={"parse": parse, "about": about})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, with its default. `IMAGEMILL_<NAME>`, or `IMAGEMILL_<NAME>_FILE` for a secret."""

    home: Path = _setting(Path, Path("~/.imagemill"), "folder of the embedded stack: ledger, Redis, store, logs")
    broker_url: str = _setting(_broker, "", "Redis; empty takes the embedded one's socket under the home folder")
    database_url: str = _setting(_database, "", "ledger; empty takes ledger.sqlite under the home folder")
    store: str = _setting(
        str, "", "fsspec URL of checkpoints and inline images; empty takes store/ under the home folder"
    )
    allowed_roots: tuple[str, ...] = _setting(
        _roots, (), "folders, s3:// prefixes and https:// hosts that references may lie under, separated by commas"
    )
    models: tuple[str, ...] = _setting(_models, ("default",), "models that a classify worker serves")
    device: str = _setting(str, "auto", "auto, cpu, cuda or cuda:N")
    precision: str = _setting(_one_of("auto", "fp32", "bf16"), "auto", "auto: bf16 on CUDA when parity shows it equal")
    batch_size: int = _setting(_natural, 0, "images in one forward pass; 0 takes 16 to 64, as measured at start")
    processes: int = _setting(
        _natural,
        0,
        "classify workers that share this machine's cores; 0 takes 1, and `up` on a CPU up to 4",
    )
    decode_threads: int = _setting(_positive, min(8, NUM_CORES), "threads of one process that fetch and decode ahead")
    torch_threads: int = _setting(
        _natural, 0, "threads of one forward pass on the CPU; the cores left run others beside it; 0 measures at start"
    )
    decoder: str = _setting(
        _one_of("auto", "pillow", "simplejpeg", "torchcodec"), "auto", "of JPEGs; auto measures at start"
    )
    shard_size: int = _setting(
        _natural, 0, "items in one shard, the unit of lease and record; 0 takes what a worker does in a second"
    )
    recall: bool = _setting(
        _switch, False, "yes answers identical image bytes with what the same version recorded of them before"
    )
    sitting_s: float = _setting(_sitting, 20.0, "seconds after which a task gives back what it has not done")
    lease_s: float = _setting(_seconds, 60.0, "seconds after which a silent worker's shards are given to another")
    max_waiting_items: int = _setting(
        _natural,
        messages.MAX_JOB_ITEMS,
        "items without an outcome at most, and a tenth more for interactive ones; 0 sets no limit",
    )
    max_caller_items: int = _setting(_natural, 0, "the same of one caller, by the name it gives; 0 sets no limit")
    keep_days: int = _setting(
        _natural, 0, "days after which finished jobs, their outcomes and inline images are deleted; 0 keeps them"
    )
    max_attempts: int = _setting(_positive, 3, "deaths of a worker on one shard before the shard is split")
    warm_versions: int = _setting(_positive, 2, "versions a worker keeps loaded at most")
    max_image_bytes: int = _setting(_positive, 20 * 1024 * 1024, "largest image file, in bytes")
    max_image_pixels: int = _setting(_positive, 50_000_000, "largest image, in pixels")
    max_inline_bytes: int = _setting(_positive, 64 * 1024, "largest image inside a message, in bytes")
    sweep_s: float = _setting(_seconds, 5.0, "seconds between sweeps for work whose bell was lost")
    playbook: str = _setting(str, "", "TOML file that says how models learn; empty takes the defaults")
    tick_s: float = _setting(_seconds, 60.0, "seconds between looks at whether a model should be retrained")
    run_lease_s: float = _setting(_seconds, 90.0, "seconds after which a silent worker's run is given to another")
    learn_share: float = _setting(_share, 0.1, "share of time a run takes while images wait for the same device")
    pixel_cache_bytes: int = _setting(_positive, 2 * 1024**3, "memory for decoded training images, in bytes")
    flower_port: int = _setting(_positive, 5555, "loopback port of Flower in `imagemill up`")
    flower_url: str = _setting(_link, "", "where people reach Flower; the console links to it, empty shows no link")
    flower_basic_auth: str = _setting(str, "", "user:password of Flower, which never runs open")
    webhook_token: str = _setting(_token, "", "what Label Studio shows to `imagemill webhook`, which never runs open")
    callback_hosts: tuple[str, ...] = _setting(
        _hosts, (), "hosts that may be told of a job's end by https, separated by commas; without one callbacks are off"
    )
    callback_secret: str = _setting(
        _signing, "", "whsec_... that callbacks are signed with; a second one after a space while you change it"
    )
    http_port: int = _setting(_positive, 8080, "port of `imagemill serve`")
    metrics_token: str = _setting(
        _token, "", "what Prometheus may show to read /metrics; empty lets in keys with the scope `operate` alone"
    )
    traces_endpoint: str = _setting(
        _link, "", "OTLP/HTTP collector that spans are sent to, as http://localhost:4318; empty keeps no traces"
    )
    traces_share: float = _setting(_share, 1.0, "share of jobs that are traced, of those that no caller traces")
    log_level: str = _setting(_one_of("DEBUG", "INFO", "WARNING", "ERROR"), "INFO", "how much workers log")
    log_format: str = _setting(
        _one_of("text", "json"), "text", "json writes each line as an object, with the job and shard it concerns"
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read `IMAGEMILL_*`. Raises `SettingsInvalid` for an unknown name or a value that does not parse."""
        given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
        known = {PREFIX + item.name.upper(): item for item in fields(cls)}
        values = {}
        for name, text in sorted(given.items()):
            if name.startswith(FOREIGN):
                continue
            base = name.removesuffix("_FILE")
            if base not in known:
                raise SettingsInvalid(_unknown(name))
            values[known[base].name] = _parse(name, _secret(name, text) if name != base else text, known[base])
        return cls(**values).resolved()

    def resolved(self) -> "Settings":
        """Fill in what follows from the home folder. Raises `SettingsInvalid` if the system names no home."""
        try:
            home = self.home.expanduser().resolve()
        except RuntimeError:  # a container's user without an entry in passwd, say
            raise SettingsInvalid(f"{PREFIX}HOME={self.home}: there is no such home folder; give it in full.") from None
        return replace(
            self,
            home=home,
            broker_url=self.broker_url or f"redis+socket://{embedded_socket(home)}",
            database_url=self.database_url or f"sqlite:///{home / 'ledger.sqlite'}",
            store=self.store or f"file://{home / 'store'}",
        )

    def at(self, home: Path) -> "Settings":
        """Give the same settings for another home folder, with the ledger and the store that lie in it."""
        broker_url = "" if self.is_embedded else self.broker_url
        return replace(self, home=home, broker_url=broker_url, database_url="", store="").resolved()

    def or_here(self) -> "Settings":
        """Give the same settings, with the working folder as the root that references lie under if there is none."""
        return self if self.allowed_roots else replace(self, allowed_roots=(str(Path.cwd()),))

    def shared_out(self) -> "Settings":
        """Give the same settings, with as many classify workers as suit this machine unless their number is set."""
        if self.processes:
            return self
        has_gpu = self.device.startswith("cuda") or (self.device == "auto" and GPU.exists())
        return replace(self, processes=1 if has_gpu else min(MOST_PROCESSES, NUM_CORES))

    @property
    def num_cores(self) -> int:
        """Cores that a classify worker takes for itself."""
        return max(1, NUM_CORES // max(1, self.processes))

    @property
    def is_embedded(self) -> bool:
        """Whether the broker is the Redis that the stack starts itself."""
        return self.broker_url == f"redis+socket://{embedded_socket(self.home)}"

    def as_env(self) -> dict[str, str]:
        """Give the variables from which another process reads these same settings."""
        return {
            PREFIX + item.name.upper(): ",".join(value) if isinstance(value, tuple) else str(value)
            for item in fields(self)
            if (value := getattr(self, item.name)) != ()
        }

    @property
    def inline_store(self) -> str:
        """Where intake keeps images that came inside messages; always an allowed root."""
        return f"{self.store.rstrip('/')}/inline"


def embedded_socket(home: Path) -> Path:
    """Name the embedded Redis's socket: under the home folder, or in the temporary one if that name is too long."""
    socket = home / "redis.sock"
    if len(str(socket).encode()) <= MAX_SOCKET_NAME:
        return socket
    return Path(tempfile.gettempdir()) / f"imagemill-{sha256(str(home).encode()).hexdigest()[:16]}.sock"


def _parse(name: str, text: str, item: Any) -> Any:
    try:
        return item.metadata["parse"](text)
    except ValueError as wrong:
        shown = "" if item.name in SECRETS else f"={text!r}"
        raise SettingsInvalid(f"{name}{shown} makes no sense: {wrong}.") from None


def _secret(name: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as wrong:
        raise SettingsInvalid(f"{name} names a file that cannot be read: {wrong.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsInvalid(f"{name} names a file that is not UTF-8 text.") from None


def _unknown(name: str) -> str:
    # Without what all names share, which would make any two look alike.
    near = difflib.get_close_matches(name.removeprefix(PREFIX), [item.name.upper() for item in fields(Settings)], n=1)
    return f"{name} is not a setting" + (f"; did you mean {PREFIX}{near[0]}?" if near else ".")


def secret_files(environ: Mapping[str, str]) -> dict[str, Path]:
    """Name the files that settings are read from, by their variables."""
    return {
        name: Path(file)
        for name, file in sorted(environ.items())
        if name.startswith(PREFIX) and name.endswith("_FILE") and not name.startswith(FOREIGN)
    }


def read_settings() -> Settings:
    """Read this process's environment. Raises `SettingsInvalid`."""
    return Settings.from_env(os.environ)
