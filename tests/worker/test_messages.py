"""What strangers send: each mistake is refused with a sentence that names the field."""

import base64
import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import messages
from worker.messages import Item, MessageInvalid, Submission

JOB = "11111111-2222-4333-8444-555555555555"
LONG = "x" * (messages.MAX_TEXT + 1)


def wire(**fields: object) -> dict[str, object]:
    return {"job_id": JOB, "items": ["file:///photos/1.jpg"], **fields}


SUBMISSIONS = {
    "not an object": (["x"], "A submission must be an object, not list."),
    "nothing": (None, "A submission must be an object, not NoneType."),
    "unknown field": (wire(prority="bulk"), "Unknown field in a submission: prority. Known: callback, caller,"),
    "no job id": ({"items": ["a"]}, "`job_id` must be a UUID."),
    "bad uuid": (wire(job_id="1234"), "`job_id` must be a UUID."),
    "uuid of a wrong type": (wire(job_id=7), "`job_id` must be a UUID."),
    "no items": ({"job_id": JOB}, "`items` must be a list of at least one item."),
    "empty items": (wire(items=[]), "`items` must be a list of at least one item."),
    "items as text": (wire(items="abc"), "`items` must be a list of at least one item."),
    "items as an object": (wire(items={"reference": "a"}), "`items` must be a list of at least one item."),
    "too many items": (wire(items=["a"] * 1001), "A message carries at most 1000 items, not 1001; send parts."),
    "too many bytes": (
        wire(items=["a" * 4000] * 100),
        "A message carries at most 262144 bytes of items, not 403200; send parts.",
    ),
    "an item of a wrong type": (wire(items=[7]), "An item must be an object, not int."),
    "repeated key": (
        wire(items=[{"reference": "a", "key": "one"}, {"reference": "b", "key": "one"}]),
        "The key 'one' is given to more than one item; keys must be unique in a job.",
    ),
    "bad model name": (wire(model="Cats!"), "`model` is not a valid name: 'Cats!'."),
    "model of a wrong type": (wire(model=3), "`model` is not a valid name: '3'."),
    "bad version": (wire(version="cats:0"), "`version` is not a valid name: 'cats:0'."),
    "version without number": (wire(version="cats"), "`version` is not a valid name: 'cats'."),
    "version number no ledger holds": (wire(version=f"cats:{10**20}"), "`version` is not a valid name: "),
    "unknown priority": (wire(priority="urgent"), "`priority` must be one of interactive, bulk."),
    "priority of a wrong type": (wire(priority=["bulk"]), "`priority` must be one of interactive, bulk."),
    "top_k below one": (wire(top_k=0), "`top_k` must be a whole number from 1 to 100."),
    "top_k above the limit": (wire(top_k=101), "`top_k` must be a whole number from 1 to 100."),
    "top_k as bool": (wire(top_k=True), "`top_k` must be a whole number from 1 to 100."),
    "top_k as float": (wire(top_k=5.0), "`top_k` must be a whole number from 1 to 100."),
    "top_k as text": (wire(top_k="5"), "`top_k` must be a whole number from 1 to 100."),
    "num_items below what is here": (
        wire(items=["a", "b"], first_position=3, num_items=4),
        "`num_items` must be a whole number from 5 to 10000000.",
    ),
    "num_items above the limit": (wire(num_items=10**8), "`num_items` must be a whole number from 1 to 10000000."),
    "num_items as bool": (wire(num_items=True), "`num_items` must be a whole number from 1 to 10000000."),
    "negative position": (wire(first_position=-1), "`first_position` must be a whole number from 0 to 10000000."),
    "deadline as text": (wire(deadline_s="60"), "`deadline_s` must be a number of seconds above 0."),
    "deadline as bool": (wire(deadline_s=True), "`deadline_s` must be a number of seconds above 0."),
    "deadline NaN": (wire(deadline_s=float("nan")), "`deadline_s` must be a number of seconds above 0."),
    "deadline infinite": (wire(deadline_s=float("inf")), "`deadline_s` must be a number of seconds above 0."),
    "deadline beyond any float": (wire(deadline_s=10**400), "`deadline_s` must be a number of seconds above 0."),
    "deadline negative": (wire(deadline_s=-1), "`deadline_s` must be a number of seconds above 0."),
    "deadline zero": (wire(deadline_s=0), "`deadline_s` must be a number of seconds above 0."),
    "idempotency key of a wrong type": (wire(idempotency_key=0), "`idempotency_key` must be text of 1 to 4096"),
    "empty idempotency key": (wire(idempotency_key=""), "`idempotency_key` must be text of 1 to 4096 characters."),
    "idempotency key with NUL": (wire(idempotency_key="a\0b"), "`idempotency_key` must not contain a NUL character."),
    "caller too long": (wire(caller=LONG), "`caller` must be text of 1 to 4096 characters."),
    "caller that is no text": (wire(caller="\ud800"), "`caller` must not contain half a surrogate pair."),
}
ITEMS = {
    "neither reference nor bytes": ({"key": "a"}, "An item needs either `reference` or `bytes`."),
    "both": ({"reference": "a", "bytes": "aGk="}, "An item needs either `reference` or `bytes`."),
    "empty reference": ("", "`reference` must be text of 1 to 4096 characters."),
    "reference of a wrong type": ({"reference": 7}, "`reference` must be text of 1 to 4096 characters."),
    "reference with NUL": ("a\0.jpg", "`reference` must not contain a NUL character."),
    "reference that is no text": ("\udcff.jpg", "`reference` must not contain half a surrogate pair."),
    "too long": (LONG, "`reference` must be text of 1 to 4096 characters."),
    "key of a wrong type": ({"reference": "a", "key": 1}, "`key` must be text of 1 to 4096 characters."),
    "key with NUL": ({"reference": "a", "key": "\0"}, "`key` must not contain a NUL character."),
    "key too long": ({"reference": "a", "key": LONG}, "`key` must be text of 1 to 4096 characters."),
    "unknown field": ({"url": "a"}, "Unknown field in an item: url. Known: bytes, key, reference."),
    "bad base64": ({"bytes": "not base64!"}, "`bytes` must be base64 text."),
    "base64 of a wrong type": ({"bytes": 7}, "`bytes` must be base64 text."),
    "base64 outside ASCII": ({"bytes": "é"}, "`bytes` must be base64 text."),
}


@pytest.mark.parametrize(("wrong", "sentence"), SUBMISSIONS.values(), ids=SUBMISSIONS)
def test_a_wrong_submission_is_refused_by_name(wrong: object, sentence: str) -> None:
    with pytest.raises(MessageInvalid) as refused:
        Submission.parse(wrong)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(("wrong", "sentence"), ITEMS.values(), ids=ITEMS)
def test_a_wrong_item_is_refused_by_name(wrong: object, sentence: str) -> None:
    with pytest.raises(MessageInvalid) as refused:
        Item.parse(wrong)
    assert str(refused.value) == sentence


@pytest.mark.parametrize("wrong", ["", "7", None, 7, [JOB]])
def test_a_job_id_is_a_uuid(wrong: object) -> None:
    with pytest.raises(MessageInvalid, match="`job_id` must be a UUID"):
        messages.parse_job_id(wrong)


def test_a_submission_survives_the_wire() -> None:
    items = (Item(reference="s3://b/1.jpg", key="one"), Item(inline=b"\x00\xff", key="two"), Item(reference="/a b.png"))
    sent = Submission(
        job_id=JOB,
        items=items,
        model="cats",
        version="cats:3",
        priority="interactive",
        idempotency_key="order-7",
        top_k=3,
        deadline_s=60.0,
        num_items=12,
        first_position=4,
        caller="shop",
    )
    assert Submission.parse(json.loads(json.dumps(sent.as_json()))) == sent


def test_the_least_submission_has_defaults() -> None:
    parsed = Submission.parse({"job_id": JOB.upper(), "items": ["a", {"reference": "b", "key": None}], "model": None})
    expected = (Item(reference="a"), Item(reference="b"))
    assert parsed == Submission(job_id=JOB, items=expected, num_items=2)


def test_a_digest_tells_items_apart_and_nothing_else() -> None:
    part = Submission.parse(wire())
    assert part.digest() == Submission.parse(wire(top_k=9, model="cats")).digest()
    assert part.digest() != Submission.parse(wire(items=[{"reference": "file:///photos/1.jpg", "key": "k"}])).digest()


@pytest.mark.parametrize("reply", [messages.Refusal(kind="invalid", message="No."), []], ids=["refusal", "no results"])
def test_an_answer_is_ok_or_refused(reply: messages.Reply) -> None:
    assert set(messages.reply_as_json(reply)) in ({"ok"}, {"refused"})


LATER = {"at once or never": None, "later": 12.0}


@pytest.mark.parametrize("retry_after_s", LATER.values(), ids=LATER)
def test_a_refusal_names_a_time_only_if_there_is_one(retry_after_s: float | None) -> None:
    refusal = messages.Refusal(kind="queue_full", message="No.", retry_after_s=retry_after_s)
    known = {"kind", "message"} | ({"retry_after_s"} if retry_after_s else set())
    assert messages.reply_as_json(refusal)["refused"].keys() == known, "an earlier client knows no more"
    told = messages.Notice(job_id=JOB, refused=refusal)
    assert told.as_json()["refused"].keys() == known
    assert messages.Notice.parse(json.dumps(told.as_json())) == told


def test_a_result_survives_the_wire() -> None:
    failed = messages.ItemError(stage="fetch", kind="missing", message="There is no such file.")
    sent = [
        messages.Result(
            position=0, key="k", reference="a", label="cat", score=0.9, top_k=[["cat", 0.9]], version="m:1"
        ),
        messages.Result(position=1, key=None, reference="b", error=failed),
    ]
    answer = json.loads(json.dumps(messages.reply_as_json(sent)))
    assert [messages.parse_result(one) for one in answer["ok"]] == sent


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("file:///a%20b/%23%3F.jpg", "/a b/#?.jpg"),
        ("file:///a#b?c.jpg", "/a#b?c.jpg"),
        ("file://localhost/a.jpg", "/a.jpg"),
        ("file:///%FF.jpg", "/\udcff.jpg"),
        ("/plain%20.jpg", "/plain%20.jpg"),
    ],
)
def test_a_file_reference_names_its_path(reference: str, path: str) -> None:
    assert messages.local_path(reference) == path


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
near_items = json_values | st.fixed_dictionaries(
    {}, optional={"reference": json_values, "key": json_values, "bytes": json_values | st.just("aGk=")}
)
near_submissions = st.fixed_dictionaries(
    {"job_id": st.just(JOB) | json_values, "items": st.lists(near_items, max_size=3) | json_values},
    optional={
        name: json_values | st.integers(0, 9) | st.text("abc:1", max_size=4)
        for name in Submission.__slots__
        if name not in ("job_id", "items")
    },
)


@given(wire=near_submissions | json_values)
def test_whatever_is_sent_is_either_read_or_refused(wire: object) -> None:
    try:
        parsed = Submission.parse(wire)
    except MessageInvalid:
        return
    assert UUID(parsed.job_id)
    assert Submission.parse(parsed.as_json()) == parsed


@given(image=st.binary(max_size=64))
def test_bytes_survive_base64(image: bytes) -> None:
    assert Item.parse({"bytes": base64.b64encode(image).decode()}) == Item(inline=image)
