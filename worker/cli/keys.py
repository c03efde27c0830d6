"""Takes a key's name or number. Gives keys for HTTP: made, listed, revoked. Knows nothing of HTTP."""

import re
from argparse import Namespace

from db import keys, session
from worker import forms, runtime
from worker.cli import output
from worker.settings import Settings

DAY_S = 86400.0
#: Of a caller; without a colon, which parts it from its idempotency keys in the ledger.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")


def add(asked: Namespace, settings: Settings) -> int:
    """Make a key and show it, this once."""
    name, secret = forms.match({"NAME": asked.name}, "NAME", NAME, default=""), keys.draw()
    expires_in_s = None if asked.expires_days is None else asked.expires_days * DAY_S
    with runtime.ledger(settings) as sessions, session.transaction(sessions) as transaction:
        made = keys.add(transaction, secret, name=name, scopes=asked.scope, expires_in_s=expires_in_s)
    if asked.json:
        output.as_json({"id": made.id, "name": made.name, "scopes": made.scopes, "key": secret})
        return 0
    console = output.console()
    console.print(f"Key {made.id} of {output.plain(made.name)} is for: read, {', '.join(made.scopes)}.")
    console.print("Keep it now; it is not shown again:")
    print(secret)
    return 0


def listed(asked: Namespace, settings: Settings) -> int:
    """Print every key, without itself."""
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        known = keys.keys(reading)
    if asked.json:
        output.as_json(known)
        return 0
    output.table(
        "Keys",
        ("key", "name", "scopes", "state", "created", "expires", "last used"),
        (
            (
                one.id, one.name, ", ".join(one.scopes), one.state, output.when(one.created_at_s),
                output.when(one.expires_at_s), output.when(one.last_used_at_s),
            )
            for one in known
        ),
    )  # fmt: skip
    return 0


def revoke(asked: Namespace, settings: Settings) -> int:
    """Shut a key out, at once and for good."""
    with runtime.ledger(settings) as sessions, session.transaction(sessions) as transaction:
        revoked = keys.revoke(transaction, asked.key)
    if asked.json:
        output.as_json(revoked)
    else:
        output.console().print(f"Key {revoked.id} of {output.plain(revoked.name)} is revoked.")
    return 0
