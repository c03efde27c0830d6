"""Takes versions that would not load, and what workers say of themselves. Gives what stands in a version's way.

Knows nothing of checkpoints. A worker tells its troubles in its row of the ledger, a sentence for each.
"""

from collections.abc import Iterable

from db import workers


def tell(version: str, why: object, *, passes: bool) -> str:
    """Say that a version cannot be loaded; `passes` where that is no fault of the version's."""
    return f"{version} cannot be loaded{' yet' * passes}: {why}"


def bars(alive: Iterable[workers.Alive], model: str, version: str) -> str | None:
    """Give why a version can be loaded by no worker alive; None if one has it warm, or none has tried."""
    serving = [one for one in alive if model in one.models]
    if any(version in one.warm for one in serving):
        return None
    told = (one.message for one in serving if one.message and _is_about(one.message, version, "cannot be loaded"))
    return next(told, None)


def condemns(told: str, version: str) -> bool:
    """Whether what bars a version is its own fault, and no store or device that is away."""
    return _is_about(told, version, "cannot be loaded:")


def _is_about(message: str, version: str, fact: str) -> bool:
    return f" {version} {fact}" in f" {message}"  # and not of a version whose name ends alike
