"""How many examples a property test tries: few and always the same by default, many and new ones if asked to."""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

#: `IMAGEMILL_TEST_HYPOTHESIS=long` tries this many times as many, and other ones each time; give pytest --timeout=0
LONG = 50
#: a fixture is shared by the examples of a test where they leave nothing in it behind
_ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def tried(num_examples: int, **how: Any) -> settings:
    """Give the settings of a property: how many examples it is tried on, as far as nobody asks for more."""
    is_long = os.environ.get("IMAGEMILL_TEST_HYPOTHESIS") == "long"
    return settings(
        max_examples=num_examples * (LONG if is_long else 1),
        derandomize=not is_long,
        print_blob=is_long,
        database=None,
        deadline=None,
        suppress_health_check=_ALLOWED,
        **how,
    )


def refusal(
    parse: Callable[..., object], *given: object, by: type[Exception] | tuple[type[Exception], ...], most: int = 2000
) -> str:
    """Give the sentence a parser refuses what it is given with, "" if it takes it; any other exception is a failure."""
    try:
        parse(*given)
    except by as refused:
        sentence = str(refused)
        assert sentence.strip(), "a refusal says what is wrong"
        assert len(sentence) < most, "a refusal is a sentence, however much was sent"
        sentence.encode()  # whoever prints or sends it must be able to
        return sentence
    return ""
