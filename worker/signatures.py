"""Takes secrets and what is posted to others. Gives the headers by which they know that it is ours and new.

Knows nothing of what is posted. Standard Webhooks 1.0.0, symmetric scheme: standard library only.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence

#: how a secret begins that is shared by both sides
PREFIX = "whsec_"
#: bytes of a secret (Standard Webhooks: 192 to 512 bits)
LEAST_BYTES, MOST_BYTES = 24, 64


def parse(text: str) -> bytes:
    """Read a secret, `whsec_` and base64. Raises ValueError without quoting it."""
    secret = _decoded(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else b""
    if not LEAST_BYTES <= len(secret) <= MOST_BYTES:
        raise ValueError(f"give {PREFIX} and the base64 of {LEAST_BYTES} to {MOST_BYTES} random bytes")
    return secret


def headers(secrets: Sequence[bytes], message_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Give the three headers of a message: its id holds no full stop, and stays when it is sent again."""
    signed = b"%s.%d.%s" % (message_id.encode("ascii"), at_s, body)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(_signature(secret, signed) for secret in secrets),
    }


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""


def _signature(secret: bytes, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode("ascii")
