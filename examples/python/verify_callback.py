"""Verify a callback as Standard Webhooks signs it, with the standard library alone."""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping

TOLERANCE_S = 300


def is_ours(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Tell whether a post is imagemill's and new: `headers` by lower-case names, `body` as it came, before any JSON."""
    message_id, at, given = (headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    if not at.isdecimal() or abs(time.time() - int(at)) > TOLERANCE_S:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    return any(hmac.compare_digest(one.encode(), expected.encode()) for one in given.split(" "))
