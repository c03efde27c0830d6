"""Takes what was looked at. Gives findings, the worst first, and what they come to.

Knows nothing of where they come from.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How bad a finding is; the worst is the largest."""

    OK = 0
    #: it is not for us to know: a Redis that keeps its configuration to itself, say
    UNKNOWN = 1
    WARNING = 2
    #: a part did not answer, so nothing is known of it
    AWAY = 3
    #: work may be lost, or strangers may come in
    UNSAFE = 4

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at, and what was found."""

    #: one or two words: "redis version"
    subject: str
    severity: Severity
    #: what was found, as a sentence
    what: str
    #: why it matters; empty where nothing is wrong
    why: str = ""
    #: how to mend it; empty where nothing is wrong
    mend: str = ""


class InstallationUnsafe(Exception):
    """The installation would lose work."""


def ok(subject: str, what: str) -> Finding:
    """Tell that nothing is wrong."""
    return Finding(subject=subject, severity=Severity.OK, what=what)


def unknown(subject: str, what: str, *, mend: str = "") -> Finding:
    """Tell that it cannot be seen from here, which says nothing against it."""
    return Finding(subject=subject, severity=Severity.UNKNOWN, what=what, mend=mend)


def warning(subject: str, what: str, *, why: str, mend: str) -> Finding:
    """Tell of what should be mended some day."""
    return Finding(subject=subject, severity=Severity.WARNING, what=what, why=why, mend=mend)


def away(subject: str, what: str, *, mend: str) -> Finding:
    """Tell that a part did not answer."""
    return Finding(
        subject=subject, severity=Severity.AWAY, what=what, why="nothing is known of it until it answers", mend=mend
    )


def unsafe(subject: str, what: str, *, why: str, mend: str) -> Finding:
    """Tell of what must be mended before work is entrusted to it."""
    return Finding(subject=subject, severity=Severity.UNSAFE, what=what, why=why, mend=mend)


def worst_first(found: Iterable[Finding]) -> list[Finding]:
    """Order findings by how bad they are; equally bad ones stay in their order."""
    return sorted(found, key=lambda one: -one.severity)


def count(found: Iterable[Finding], severity: Severity) -> int:
    """Count the findings of one severity."""
    return sum(one.severity == severity for one in found)
