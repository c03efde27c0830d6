"""Writes the pages of `docs/reference/` from the code they are about: `python -m docs.generate`."""
