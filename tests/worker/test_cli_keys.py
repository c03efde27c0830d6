"""Keys for HTTP are made, shown once, listed and revoked from the command line."""

import re

import pytest

from db import keys, session
from tests.worker.machine import Machine, sentence


def test_a_key_is_shown_once_and_is_for_what_was_said(machine: Machine) -> None:
    made = machine.run("keys", "add", "shop", "--scope", "submit", "--scope", "label", "--expires-days", "1")
    assert made.code == 0
    assert "Key 1 of shop is for: read, submit, label." in made.out
    secret = re.search(r"^im_\S{43}$", made.out, re.MULTILINE)[0]
    with session.reading(machine.sessions) as reading:
        known = keys.find(reading, secret)
    assert (known.name, known.scopes, known.state) == ("shop", ("submit", "label"), "valid")
    assert known.expires_at_s - known.created_at_s == pytest.approx(86400, abs=5)
    listed = machine.run("keys", "list")
    assert (secret in listed.out, "submit, label" in listed.out, "valid" in listed.out) == (False, True, True)
    assert machine.run("keys", "revoke", "1").out == "Key 1 of shop is revoked.\n"
    assert [one["state"] for one in machine.run("keys", "list", "--json").json] == ["revoked"]


def test_what_is_no_key_is_said(machine: Machine) -> None:
    assert sentence(machine.run("keys", "revoke", "7"), 2).startswith("There is no key 7;")
    assert "`NAME` is not a valid name" in sentence(machine.run("keys", "add", "a:b", "--scope", "submit"), 2)
