"""Keys are kept as their hashes, and are valid until they expire or are revoked."""

import pytest

from db import errors, keys, session


@pytest.fixture
def key(sessions):
    """Add a key; gives what is shown of it, and the ledger's view."""

    def add(**how):
        secret = keys.draw()
        with session.transaction(sessions) as transaction:
            return secret, keys.add(transaction, secret, **({"name": "shop", "scopes": ("submit",)} | how))

    return add


@pytest.mark.parametrize(("expires_in_s", "state"), [(None, "valid"), (60.0, "valid"), (-1.0, "expired")])
def test_a_key_is_valid_until_it_expires(sessions, key, expires_in_s, state):
    secret, made = key(expires_in_s=expires_in_s)
    with session.reading(sessions) as reading:
        assert keys.find(reading, secret) == made
        assert keys.find(reading, secret[:-1]) is None
    assert (made.state, made.scopes, made.last_used_at_s) == (state, ("submit",), None)


def test_a_revoked_key_stays_revoked_and_is_listed(sessions, key):
    _, made = key()
    with session.transaction(sessions) as transaction:
        first = keys.revoke(transaction, made.id)
    with session.transaction(sessions) as transaction:
        assert keys.revoke(transaction, made.id) == first
    _, second = key(name="printer", scopes=("label", "operate"))
    with session.reading(sessions) as reading:
        assert [one.state for one in keys.keys(reading)] == ["valid", "revoked"]
        assert keys.keys(reading)[0] == second
    with session.transaction(sessions) as transaction, pytest.raises(errors.UnknownKey, match="There is no key 99"):
        keys.revoke(transaction, 99)


def test_the_last_use_is_noted(sessions, key):
    _, made = key()
    with session.transaction(sessions) as transaction:
        keys.mark_used(transaction, [made.id])
        assert keys.by_id(transaction, made.id).last_used_at_s >= made.created_at_s


def test_two_keys_are_never_alike_and_have_256_random_bits():
    drawn = {keys.draw() for _ in range(100)}
    assert len(drawn) == 100
    assert {len(one) for one in drawn} == {len(keys.PREFIX) + 43}
