"""Labelled images to checkpoints: snapshot, plan, train, evaluate, gate; and what to label next."""
