"""Takes the settings. Gives what strangers could reach: Flower, folders of pictures, files with secrets.

Knows nothing of Redis, which is asked about its own doors.
"""

import os
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from worker.doctor import addresses
from worker.doctor.findings import Finding, ok, unsafe, warning
from worker.settings import Settings

#: asks this machine itself, whatever proxy the environment names
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
#: the variable by which a Flower without a password answers programs
OPENS_API = "FLOWER_UNAUTHENTICATED_API"
#: seconds that Flower may take to answer
PATIENCE_S = 3.0
#: characters of Flower's password at least, as for the webhook's token
MIN_PASSWORD = 12
#: where an orchestrator mounts secrets: the container alone sees them, so their modes say nothing
MOUNTED = Path("/run/secrets")


def flower(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look at Flower's password, and at what answers at its port, from here and by this machine's other addresses."""
    user, _, password = settings.flower_basic_auth.partition(":")
    if user and len(password) < MIN_PASSWORD:
        yield warning(
            "flower password",
            f"Flower's password is shorter than {MIN_PASSWORD} characters.",
            why="it shows what every worker does, and can be guessed",
            mend="IMAGEMILL_FLOWER_BASIC_AUTH=user:$(openssl rand -hex 16)",
        )
    elif user:
        yield ok("flower password", "Flower has a password.")
    else:
        yield ok("flower password", "Flower has no password, and never runs without one.")
    if environ.get(OPENS_API):
        yield warning(
            "flower password",
            f"{OPENS_API} is set.",
            why="a Flower that somebody starts without a password shows its API to everybody; ours never runs without",
            mend=f"unset {OPENS_API}",
        )
    yield _flower_port(settings.flower_port)


def _flower_port(port: int) -> Finding:
    subject = "flower port"
    answers = {host: _answer(host, port) for host in addresses.beside("127.0.0.1")}
    for host, answer in answers.items():
        if answer == 200:
            return unsafe(
                subject,
                f"What answers at {host}:{port} lets anybody in without a password.",
                why="Flower shows every task, and can stop workers",
                mend="start it by `imagemill flower`, which never runs open",
            )
    far = [host for host, answer in answers.items() if answer and not addresses.is_loopback(host)]
    if far:
        return warning(
            subject,
            f"Flower can be reached from elsewhere, at {far[0]}:{port}.",
            why="its password travels unencrypted",
            mend="bind it to 127.0.0.1, and put a proxy with TLS before it (docs/deploy.md)",
        )
    return ok(subject, "Flower is reached from this machine alone, if it runs.")


def _answer(host: str, port: int) -> int:
    """Ask for the page that shows the workers, and give HTTP's status; 0 where nothing of the kind listens."""
    try:
        with DIRECTLY.open(f"http://{host}:{port}/workers", timeout=PATIENCE_S) as told:
            return int(told.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return int(refused.code) if refused.code == 401 else 0
    except (OSError, ValueError):
        return 0


def roots(settings: Settings) -> Iterator[Finding]:
    """Look at the folders that references may lie under."""
    subject = "allowed roots"
    if not settings.allowed_roots:
        yield ok(subject, "No folder is open to references.")
    for root in settings.allowed_roots:
        if "://" in root and not root.startswith("file://"):
            yield ok(subject, f"{root} is a store of its own.")
        else:
            yield _root(Path(root.removeprefix("file://")), settings.home)


def _root(root: Path, home: Path) -> Finding:
    subject = "allowed roots"
    if not root.is_dir():
        return warning(
            subject,
            f"There is no folder {root}.",
            why="every reference under it fails",
            mend="make or mount it, or take it out of IMAGEMILL_ALLOWED_ROOTS",
        )
    if home.is_relative_to(root):
        return warning(
            subject,
            f"{root} holds imagemill's own home, {home}.",
            why="whoever may submit can have the ledger, logs and secrets opened as if they were images",
            mend="name the folders of pictures alone",
        )
    if os.access(root, os.W_OK):
        return warning(
            subject,
            f"We may write to {root}.",
            why="classifying needs to read alone: an image that takes a worker over could change the others",
            mend="mount it read-only, or run workers as a user who may not write there",
        )
    return ok(subject, f"{root} is there, and not ours to write to.")


def secret_files(files: Mapping[str, Path]) -> Iterator[Finding]:
    """Look at who may read the files that settings with secrets name."""
    subject = "secrets"
    if not files:
        yield ok(subject, "No setting is read from a file.")
    for name, file in files.items():
        mode = file.stat().st_mode
        if mode & stat.S_IWOTH:
            yield unsafe(
                subject,
                f"Every user of this machine may change {file} ({name}).",
                why="whoever does decides which queue or ledger is used",
                mend=f"chmod o-w {file}",
            )
        elif mode & stat.S_IROTH and not file.is_relative_to(MOUNTED) and _is_reached(file):
            yield warning(
                subject,
                f"Every user of this machine may read {file} ({name}).",
                why="it holds a password",
                mend=f"chmod 600 {file}, or chmod 700 its folder",
            )
        else:
            yield ok(subject, f"{file} is closed to others.")


def _is_reached(file: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in file.resolve().parents)
