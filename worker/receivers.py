"""Takes the settings, or the URL of a callback. Gives where callbacks may go, or one sentence that says why not.

Knows nothing of sending. An address is looked at when it is connected to: here nothing is looked up.
"""

from collections.abc import Sequence

from pipeline import urls
from pipeline.errors import ItemUnfetchable
from worker import signatures
from worker.settings import Settings


class CallbackRefused(Exception):
    """Nobody may be told of a job's end at this URL."""


def roots(settings: Settings) -> tuple[str, ...]:
    """Give the roots of all URLs that may be posted to: none unless both hosts and a secret are set."""
    if not settings.callback_secret:
        return ()
    return tuple(urls.root(f"https://{host}") for host in settings.callback_hosts)


def secrets(settings: Settings) -> tuple[bytes, ...]:
    """Give what callbacks are signed with: one secret, or two while it is changed."""
    return tuple(signatures.parse(text) for text in settings.callback_secret.split())


def host_of(url: str, allowed: Sequence[str]) -> str:
    """Name the host of a callback's URL. Raises CallbackRefused."""
    if not allowed:
        raise CallbackRefused(
            "Callbacks are off here: the operator sets IMAGEMILL_CALLBACK_HOSTS and IMAGEMILL_CALLBACK_SECRET."
        )
    try:
        return urls.allowed_host(url, allowed)
    except ItemUnfetchable as wrong:
        raise CallbackRefused(_sentence(wrong)) from None


def _sentence(wrong: ItemUnfetchable) -> str:
    if wrong.kind == "outside_roots":
        return "The callback's host is not one that the operator allows (IMAGEMILL_CALLBACK_HOSTS)."
    if wrong.kind == "unsupported_scheme":
        return "A callback is an https:// URL."
    return f"The callback cannot be used. {wrong}"
