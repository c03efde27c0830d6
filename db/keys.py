"""Keys: who may call over HTTP, and what for.

Takes keys. Gives what the ledger knows of them, by their hashes: a key itself is shown once, and kept nowhere.
Knows nothing of HTTP.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, case, insert, select, update
from sqlalchemy.orm import Session

from db import errors, models
from db.models import copied
from db.session import now_s

Scope = Literal["submit", "label", "operate"]
#: what a key may be for; each of them may read, too
SCOPES: tuple[Scope, ...] = ("submit", "label", "operate")
KeyState = Literal["valid", "expired", "revoked"]
#: random bytes in a key
NUM_BYTES = 32
#: how every key begins, so that one that leaked is known for what it is
PREFIX = "im_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as the ledger holds it."""

    id: int
    #: who calls with it
    name: str
    scopes: tuple[Scope, ...]
    state: KeyState
    #: epoch seconds, as are all times here
    created_at_s: float
    #: None never expires
    expires_at_s: float | None
    revoked_at_s: float | None
    last_used_at_s: float | None


def draw() -> str:
    """Draw a new key at random."""
    return PREFIX + secrets.token_urlsafe(NUM_BYTES)


def digest(secret: str) -> str:
    """Give the hash a key is known by.

    A plain sha256, for a key is 256 random bits: nobody can try them all, as a slow hash keeps others from trying a
    person's passwords, and every request pays for this one.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


def add(session: Session, secret: str, *, name: str, scopes: Sequence[Scope], expires_in_s: float | None = None) -> Key:
    """Let a key in from now on."""
    row = models.ApiKey
    expires_at_s = None if expires_in_s is None else now_s() + expires_in_s
    new = insert(row).values(name=name, sha256=digest(secret), scopes=list(scopes), expires_at_s=expires_at_s)
    return by_id(session, session.execute(new.returning(row.id)).scalar_one())


def find(session: Session, secret: str) -> Key | None:
    """Read the key that somebody shows; None for one that never was."""
    return _one(session, models.ApiKey.sha256 == digest(secret))


def by_id(session: Session, key_id: int) -> Key:
    """Read a key by its number. Raises UnknownKey."""
    found = _one(session, models.ApiKey.id == key_id)
    if found is None:
        raise errors.UnknownKey(f"There is no key {key_id}; see `imagemill keys list`.")
    return found


def keys(session: Session) -> list[Key]:
    """List every key, the newest first."""
    row = models.ApiKey
    return [_key(*found) for found in session.execute(select(row, _state()).order_by(row.id.desc()))]


def revoke(session: Session, key_id: int) -> Key:
    """Shut a key out for good; one that is revoked stays so. Raises UnknownKey."""
    row = models.ApiKey
    session.execute(update(row).where(row.id == key_id, row.revoked_at_s.is_(None)).values(revoked_at_s=now_s()))
    return by_id(session, key_id)


def mark_used(session: Session, key_ids: Iterable[int]) -> None:
    """Note that keys were shown just now."""
    session.execute(update(models.ApiKey).where(models.ApiKey.id.in_(list(key_ids))).values(last_used_at_s=now_s()))


def _one(session: Session, which: ColumnElement[bool]) -> Key | None:
    found = session.execute(select(models.ApiKey, _state()).where(which)).one_or_none()
    return None if found is None else _key(*found)


def _state() -> ColumnElement[KeyState]:
    row = models.ApiKey
    return case((row.revoked_at_s.is_not(None), "revoked"), (row.expires_at_s <= now_s(), "expired"), else_="valid")


def _key(row: models.ApiKey, state: KeyState) -> Key:
    return copied(Key, row, state=state, scopes=tuple(row.scopes))
