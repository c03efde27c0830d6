"""Takes the names of packages. Gives whether those installed are new enough to be safe, and why they must be.

Knows nothing of what they do here. Nothing is imported for it.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from worker.doctor.findings import Finding, ok, unsafe, warning
from worker.settings import Settings

#: the first Python whose `ipaddress` knows which addresses are private (CVE-2024-4032)
PYTHON = (3, 11, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The oldest version of a package that is safe."""

    package: str
    version: str
    #: what is wrong with older ones
    why: str


FLOORS = (
    Floor(package="pillow", version="13.0.0", why="an image can overflow its JPEG decoder (CVE-2026-96639)"),
    Floor(package="torch", version="2.11", why="loading weights can run code that lies in them (CVE-2026-24747)"),
    Floor(package="celery", version="5.7", why="children are forked though spawn is asked for; CVE-2021-23727"),
    Floor(package="kombu", version="5.7", why="messages of a dead worker come back after minutes, all at once"),
    Floor(package="flower", version="1.2.0", why="its login can be passed by (CVE-2022-30034)"),
)


def check(settings: Settings, python: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Finding]:
    """Compare what is installed with the floors; a package that is not installed harms nobody."""
    old = [(floor, given) for floor in FLOORS if (given := _installed(floor.package)) and _older(given, floor.version)]
    for floor, given in old:
        yield unsafe(
            "packages",
            f"{floor.package} {given} is older than {floor.version}.",
            why=f"before that {floor.why}",
            mend="run `make setup`, or build the image again",
        )
    if not old:
        found = ", ".join(f"{floor.package} {given}" for floor in FLOORS if (given := _installed(floor.package)))
        yield ok("packages", f"New enough: {found}.")
    yield _python(settings, python)


def _python(settings: Settings, python: tuple[int, ...]) -> Finding:
    spelled = ".".join(map(str, python))
    over_http = [root for root in settings.allowed_roots if root.startswith(("http://", "https://"))]
    if python < PYTHON and over_http:
        return warning(
            "python",
            f"Python {spelled} fetches references under {over_http[0]}.",
            why="before 3.11.10 it takes some private addresses for public ones (CVE-2024-4032)",
            mend="run Python 3.11.10 or newer",
        )
    return ok("python", f"Python {spelled}.")


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _older(version: str, floor: str) -> bool:
    return numbers(version) < numbers(floor)


def numbers(version: str) -> tuple[int, ...]:
    """Read the leading numbers of a version: (2, 15, 0) of `2.15.0+cpu`."""
    read = []
    for part in version.split("+", maxsplit=1)[0].split("."):
        digits = "".join(character for character in part if character.isdigit())
        if not digits or not part.startswith(digits):
            break
        read.append(int(digits))
    return tuple(read)
