"""Whatever the order of promotions and rollbacks, the history is one line, and the pointer stands at its end."""

import sys
from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from db import errors, registry
from tests.db import builders
from tests.db.builders import MODEL
from tests.properties import tried


class Registrars(RuleBasedStateMachine):
    """People and gates that promote and roll back, some with an old view; all in one transaction, rolled back."""

    def __init__(self, sessions):
        super().__init__()
        self.session = sessions()
        #: by number, from 1
        self.versions: list[registry.Version] = []
        #: (kind, version) of each move
        self.moves: list[tuple[str, registry.Version]] = []
        #: what served before, and what serves
        self.served: list[registry.Version] = []

    def teardown(self):
        try:
            if sys.exception() is None:  # the story itself is sound
                self.go_all_the_way_back()
        finally:
            self.session.close()

    @initialize()
    def begin(self):
        for _ in range(2):
            self.register()

    @rule()
    def register(self):
        made = registry.register(self.session, builders.new_version())
        self.versions.append(made)
        assert made.number == len(self.versions)

    @rule(which=st.integers(0, 5), age=st.sampled_from([0, 0, 0, 1, -1]))
    def promote(self, which, age):
        """Promote by whoever saw the pointer `age` moves ago."""
        version = self.versions[-1 - which % len(self.versions)]
        seen = len(self.moves) - age
        moved = partial(registry.promote, self.session, MODEL, version.id, seen_epoch=seen, who="ada", reason="better")
        if age:
            with pytest.raises(errors.ServingChanged), self.session.begin_nested():
                moved()
            return
        with self.session.begin_nested():
            assert moved() == len(self.moves) + 1
        self.moves.append(("promote", version))
        if self.served[-1:] != [version]:
            self.served.append(version)

    @rule()
    def promote_what_is_another_models(self):
        with self.session.begin_nested():
            other = registry.register(self.session, builders.new_version("dogs"))
        with pytest.raises(errors.UnknownVersion), self.session.begin_nested():
            registry.promote(self.session, MODEL, other.id, seen_epoch=len(self.moves), who="ada", reason="better")

    @rule()
    def roll_back(self):
        if len(self.served) < 2:
            with pytest.raises((errors.UnknownModel, errors.NothingToRollBack)), self.session.begin_nested():
                registry.rollback(self.session, MODEL, who="ada", reason="worse")
            return
        with self.session.begin_nested():
            now = registry.rollback(self.session, MODEL, who="ada", reason="worse")
        self.served.pop()
        self.moves.append(("rollback", self.served[-1]))
        assert (now.version, now.epoch) == (self.served[-1], len(self.moves))

    @invariant()
    def the_history_is_one_line(self):
        history = registry.history(self.session, MODEL)
        assert [move.epoch for move in history] == list(range(1, len(self.moves) + 1))
        assert [(move.kind, move.version) for move in history] == [(kind, one.name) for kind, one in self.moves]
        assert [move.previous for move in history] == [None, *(move.version for move in history)][: len(history)]

    @invariant()
    def the_pointer_stands_at_its_end(self):
        serving = registry.serving(self.session, MODEL)
        if not self.moves:
            assert serving is None
            return
        assert (serving.version, serving.epoch) == (self.moves[-1][1], len(self.moves))
        assert serving.version == self.served[-1]

    def go_all_the_way_back(self):
        for _ in range(len(self.served)):
            self.roll_back()
        self.the_history_is_one_line()
        self.the_pointer_stands_at_its_end()


def test_a_models_history_is_one_line_whatever_is_promoted_and_rolled_back(sessions):
    run_state_machine_as_test(partial(Registrars, sessions), settings=tried(8, stateful_step_count=30))
