"""What others send to teach a model is read as documented, or refused by the name of the field."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import learning_messages, messages
from worker.forms import MessageInvalid
from worker.learning_messages import LabelledImage, Labels, Retrain, RunStatus

ONE = {"reference": "s3://b/1.jpg", "label": "cat"}
LONG = "x" * 4097

IMAGES = {
    "not an object": ("s3://b/1.jpg", "A labelled image must be an object, not str."),
    "neither reference nor bytes": ({"label": "cat"}, "A labelled image needs either `reference` or `bytes`."),
    "both": (ONE | {"bytes": "aGk="}, "A labelled image needs either `reference` or `bytes`."),
    "no label": ({"reference": "a"}, "`label` must be text of 1 to 4096 characters."),
    "empty label": (ONE | {"label": ""}, "`label` must be text of 1 to 4096 characters."),
    "label of spaces": (ONE | {"label": "  "}, "`label` must be one line of 1 to 200 characters."),
    "label of a wrong type": (ONE | {"label": 7}, "`label` must be text of 1 to 4096 characters."),
    "label too long": (ONE | {"label": "x" * 201}, "`label` must be one line of 1 to 200 characters."),
    "label of two lines": (ONE | {"label": "cat\ndog"}, "`label` must be one line of 1 to 200 characters."),
    "label with NUL": (ONE | {"label": "c\0t"}, "`label` must not contain a NUL character."),
    "label that is no text": (ONE | {"label": "\ud800"}, "`label` must not contain half a surrogate pair."),
    "who too long": (ONE | {"who": "x" * 201}, "`who` must be text of 1 to 200 characters."),
    "group too long": (ONE | {"group": "x" * 501}, "`group` must be text of 1 to 500 characters."),
    "key of a wrong type": (ONE | {"key": 7}, "`key` must be text of 1 to 500 characters."),
    "reference too long": (ONE | {"reference": LONG}, "`reference` must be text of 1 to 4096 characters."),
    "bad base64": ({"bytes": "not base64!", "label": "cat"}, "`bytes` must be base64 text."),
    "unknown field": (ONE | {"split": "test"}, "Unknown field in a labelled image: split. Known: bytes, group, key,"),
}


@pytest.mark.parametrize(("wrong", "sentence"), IMAGES.values(), ids=IMAGES)
def test_a_wrong_label_is_refused_by_name(wrong: object, sentence: str) -> None:
    with pytest.raises(MessageInvalid) as refused:
        Labels.parse({"labels": [ONE, wrong]})
    assert str(refused.value).startswith(sentence)


MESSAGES = {
    "no labels": (Labels, {"model": "cats"}, "`labels` must be a list of at least one item."),
    "empty labels": (Labels, {"labels": []}, "`labels` must be a list of at least one item."),
    "labels as an object": (Labels, {"labels": ONE}, "`labels` must be a list of at least one item."),
    "too many bytes": (
        Labels,
        {"labels": [{"reference": "a" * 4000, "label": "cat"}] * 100},
        "A message carries at most 262144 bytes of labels, not 425600; send parts.",
    ),
    "too many labels": (Labels, {"labels": [ONE] * 1001}, "A message carries at most 1000 labels, not 1001; send "),
    "bad model name": (Labels, {"labels": [ONE], "model": "Cats!"}, "`model` is not a valid name: 'Cats!'."),
    "no object": (Labels, None, "A message of labels must be an object, not NoneType."),
    "unknown strategy": (Retrain, {"strategy": "most"}, "`strategy` must be one of head, last_stage, all."),
    "strategy of a wrong type": (Retrain, {"strategy": ["all"]}, "`strategy` must be one of head, last_stage, all."),
    "force as text": (Retrain, {"force": "yes"}, "`force` must be true or false."),
    "force as a number": (Retrain, {"force": 1}, "`force` must be true or false."),
    "bad base": (Retrain, {"base": "cats"}, "`base` is not a valid name: 'cats'."),
    "negative seed": (Retrain, {"seed": -1}, "`seed` must be a whole number from 0 to 2147483647."),
    "unknown field of a wish": (Retrain, {"epochs": 3}, "Unknown field in a wish to retrain: epochs. Known: asked_by"),
}


@pytest.mark.parametrize(("kind", "wrong", "sentence"), MESSAGES.values(), ids=MESSAGES)
def test_a_wrong_message_is_refused_by_name(kind: type[Labels | Retrain], wrong: object, sentence: str) -> None:
    with pytest.raises(MessageInvalid) as refused:
        kind.parse(wrong)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize("wrong", [None, 0, -1, "7", 7.0, True, 2**31, [7]])
def test_a_run_is_named_by_its_number(wrong: object) -> None:
    with pytest.raises(MessageInvalid, match="`run` must be a whole number from 1 to 2147483647"):
        learning_messages.parse_run_id(wrong)
    assert learning_messages.parse_run_id(7) == 7


def test_labels_survive_the_wire() -> None:
    images = (
        LabelledImage(reference="s3://b/1.jpg", label="cat", who="ada", source="shop", group="g", key="k"),
        LabelledImage(inline=b"\x00\xff", label="größte Katze"),
    )
    sent = Labels(model="cats", images=images)
    assert Labels.parse(json.loads(json.dumps(sent.as_json()))) == sent


def test_the_least_label_has_defaults_and_no_space_around_it() -> None:
    parsed = Labels.parse({"labels": [{"reference": "a", "label": " cat\t", "who": None}]})
    [image] = parsed.images
    assert parsed.model == "default"
    assert image == LabelledImage(reference="a", label="cat", who="unknown", source="message")


def test_a_wish_survives_the_wire() -> None:
    wish = Retrain(model="cats", asked_by="ada", reason="new toys", force=True, strategy="head", base="m:3", seed=7)
    assert Retrain.parse(json.loads(json.dumps(wish.as_json()))) == wish
    assert Retrain.parse({}) == Retrain()


def test_a_run_is_over_in_its_last_states_alone() -> None:
    usual = dict.fromkeys(RunStatus.__slots__) | {"id": 1, "model": "cats"}
    over = [state for state in learning_messages.RUN_STATES if RunStatus(**(usual | {"state": state})).is_final]
    assert over == ["succeeded", "failed", "cancelled"]


def test_task_names_carry_a_version() -> None:
    names = {messages.LABELS, messages.RETRAIN, messages.RUN_STATUS, messages.LEARN, messages.TICK}
    assert all(name.startswith("imagemill.") and name.endswith(".v1") for name in names)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("reference", "label", "bytes", "who", "source", "group", "key")
near_images = json_values | st.fixed_dictionaries(
    {}, optional={name: json_values | st.text("ab ", max_size=4) | st.just("aGk=") for name in FIELDS}
)


@given(wire=st.fixed_dictionaries({"labels": st.lists(near_images, max_size=3)}) | json_values)
def test_whatever_is_sent_as_labels_is_either_read_or_refused(wire: object) -> None:
    try:
        parsed = Labels.parse(wire)
    except MessageInvalid:
        return
    assert Labels.parse(parsed.as_json()) == parsed


@given(
    wire=json_values
    | st.fixed_dictionaries({}, optional={name: json_values | st.integers(0, 3) for name in Retrain.__slots__})
)
def test_whatever_is_sent_as_a_wish_is_either_read_or_refused(wire: object) -> None:
    try:
        parsed = Retrain.parse(wire)
    except MessageInvalid:
        return
    assert Retrain.parse(parsed.as_json()) == parsed
