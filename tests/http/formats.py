"""Takes nothing. Gives the machine that reads our OpenAPI document what it needs to know of our own formats."""

import schemathesis
from hypothesis import strategies as st

#: What `shapes.Line` takes: ASCII does, for who makes up requests.
_LETTERS = st.characters(min_codepoint=33, max_codepoint=126)

schemathesis.openapi.format("line", st.text(_LETTERS, min_size=1, max_size=200))
