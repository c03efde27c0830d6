"""Runs: snapshot, plan, train, evaluate, gate, promote, report; each step can be done again from its row."""
