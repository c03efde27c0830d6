"""A JSON list of any length is read element by element, and a fault is named by its line."""

import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import json_list
from worker.json_list import JsonListInvalid, elements

LISTS = {
    "empty": ("[]", []),
    "empty, spread": ("\n [\n ] \n", []),
    "one": ('[{"a": 1}]', [(1, {"a": 1})]),
    "a line each": ('[\n{"a": 1},\n\n  {"b": [1, 2]}\n]\n', [(2, {"a": 1}), (4, {"b": [1, 2]})]),
    "commas first": ('[{"a": 1}\n,{"b": 2}\n]', [(1, {"a": 1}), (2, {"b": 2})]),
    "brackets in text": ('["]", "},{"]', [(1, "]"), (1, "},{")]),
}


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 16])
@pytest.mark.parametrize(("text", "expected"), LISTS.values(), ids=LISTS)
def test_elements_come_with_their_lines_however_the_text_is_cut(
    text: str, expected: list[object], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_list, "CHUNK", chunk)
    assert list(elements(io.StringIO(text))) == expected


WRONG = {
    "nothing": ("", 1, "the file must be a JSON list."),
    "an object": ('\n{"a": 1}', 2, "the file must be a JSON list."),
    "no end": ('[{"a": 1}', 1, "a comma or the list's end is missing."),
    "no end after a comma": ('[{"a": 1},\n', 2, "this is not JSON: Expecting value."),
    "no comma": ('[{"a": 1}\n{"b": 2}]', 2, "a comma or the list's end is missing."),
    "cut off": ('[{"a": 1},\n{"b": ', 2, "this is not JSON: Expecting value."),
    "a bare word": ("[1,\n\ncat]", 3, "this is not JSON: Expecting value."),
    "nested beyond reading": ("[" * 100_000, 1, "this is not JSON: "),
}


@pytest.mark.parametrize("chunk", [3, 1 << 16])
@pytest.mark.parametrize(("text", "line", "said"), WRONG.values(), ids=WRONG)
def test_what_is_no_list_is_named_by_its_line(
    text: str, line: int, said: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_list, "CHUNK", chunk)
    with pytest.raises(JsonListInvalid) as refused:
        list(elements(io.StringIO(text)))
    assert str(refused.value).startswith(f"Line {line}: {said}")


def test_an_element_without_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "MAX_ELEMENT", 1000)
    monkeypatch.setattr(json_list, "CHUNK", 100)
    text = io.StringIO('["' + "x" * 100_000)
    with pytest.raises(JsonListInvalid, match="this is not JSON"):
        list(elements(text))
    assert text.tell() < 3000


def test_a_long_list_takes_no_memory() -> None:
    text = io.StringIO("[" + ",\n".join(json.dumps({"n": n, "text": "x" * 100}) for n in range(50_000)) + "]")
    tracemalloc.start()
    assert sum(1 for _ in elements(text)) == 50_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


@given(values=st.lists(st.dictionaries(st.text(max_size=5), st.none() | st.text(max_size=5)), max_size=5))
def test_any_list_of_objects_survives(values: list[object]) -> None:
    for indent in (None, 1):
        assert [one for _, one in elements(io.StringIO(json.dumps(values, indent=indent)))] == values
