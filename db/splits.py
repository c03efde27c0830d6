"""Splits: which groups of images train, which choose, and which judge.

Takes a group's key and its model's salt. Gives the split it falls into, the same on every machine and in any order.
Knows nothing of images, classes or tables.
"""

import hashlib
from typing import Literal

#: `excluded` groups take no part: each holds one image that resembles images of two other splits
Split = Literal["train", "val", "test", "excluded"]

#: share of the groups that judge (science 3.3)
TEST_SHARE = 0.15
#: share of the groups that choose
VAL_SHARE = 0.10


def share(key: str | bytes, salt: str = "") -> float:
    """Hash a key to a number from 0 up to 1: the first 8 bytes of SHA-256, big-endian, over 2**64.

    What is hashed is `salt|key`, or the key alone where there is no salt.
    """
    named = key.encode() if isinstance(key, str) else key
    salted = f"{salt}|".encode() + named if salt else named
    return int.from_bytes(hashlib.sha256(salted).digest()[:8], "big") / 2**64


def split_of(u: float) -> Split:
    """Give the split of a group whose `share` is u."""
    if u < TEST_SHARE:
        return "test"
    return "val" if u < TEST_SHARE + VAL_SHARE else "train"
