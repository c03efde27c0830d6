"""Whatever is in a file that somebody names: what it says, or one refusal in a sentence, and never for long."""

import io
import json
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import RecipeInvalid
from tests.garbage import NASTY, damaged_text, json_values
from tests.properties import refusal, tried
from tests.worker.test_label_studio import annotation, choice, task
from worker import json_list, label_files, manifests, messages, playbook
from worker.errors import PlaybookInvalid
from worker.learning_messages import LabelledImage
from worker.manifests import ManifestInvalid

MANIFESTS = {
    ".csv": ("reference,key\nfile:///1.jpg,a\n2.jpg,b\n", 'key,reference\n"a\nb",x.png\n', "reference\nx\n"),
    ".jsonl": ('{"reference": "1.jpg", "key": "a"}\n"2.jpg"\n{"bytes": "aGk="}\n', '\n"é.jpg"\n'),
}
LABELS = {
    ".csv": ("reference,label,who,group,key\n1.jpg,cat,ada,g,k\n2.jpg,dog,,,\n",),
    ".jsonl": ('{"reference": "1.jpg", "label": "cat", "key": "k"}\n{"bytes": "aGk=", "label": "dog"}\n',),
    ".json": (json.dumps([{**task(), "annotations": [annotation(choice("cat"))]}] * 2, indent=1),),
}
PLAYBOOK = (
    'base = "imagenet:1"\nclasses = ["cat", "dog"]\ntarget_accuracy = 0.9\n[recipe]\nstrategy = "head"\nepochs = 5\n'
    '[trigger]\ncron = "0 3 * * 1"\nmin_new_share = 0.2\nmatch = "all"\n[gate]\nalpha = 0.01\n'
    "[models.cats.live]\nwatch_s = 60\n[models.cats.drift]\nnum_items = 100\n"
)


@pytest.mark.parametrize("ending", MANIFESTS)
@tried(150)
@given(data=st.data())
def test_a_manifest_gives_items_that_can_be_sent_or_one_refusal(
    tmp_path: Path, ending: str, data: st.DataObject
) -> None:
    file = tmp_path / f"manifest{ending}"
    file.write_bytes(data.draw(damaged_text(st.sampled_from(MANIFESTS[ending]))))
    source = manifests.from_manifest(file)
    if not refusal(manifests.check, source, by=ManifestInvalid):
        for item in source():
            if len(item.reference) <= messages.MAX_TEXT:
                assert messages.Item.parse(json.loads(json.dumps(item.as_json()))) == item


@pytest.mark.parametrize("ending", LABELS)
@tried(150)
@given(data=st.data())
def test_a_label_file_gives_labels_that_can_be_sent_or_one_refusal(
    tmp_path: Path, ending: str, data: st.DataObject
) -> None:
    file = tmp_path / f"labels{ending}"
    file.write_bytes(data.draw(damaged_text(st.sampled_from(LABELS[ending]))))
    source = label_files.open_source(file, label_files.Origin(who="ada"))
    if not refusal(label_files.check, source, by=ManifestInvalid):
        for row in source():
            if isinstance(row, LabelledImage) and len(row.reference) <= messages.MAX_TEXT:
                assert LabelledImage.parse(json.loads(json.dumps(row.as_json()))) == row


@tried(150)
@given(names=st.lists(st.sampled_from(NASTY) | st.text("ab*?[]!-~{}\0\udcff", max_size=12), max_size=3))
@example(names=["[z-a]*"])
@example(names=["*\0/*"])
@example(names=["~nobody/**"])
@example(names=["~\0"])
def test_what_is_named_on_the_command_line_gives_items_or_one_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True, exist_ok=True)  # so that `../..` is not all of this machine
    monkeypatch.chdir(tmp_path / "here" / "below")
    monkeypatch.setenv("HOME", str(tmp_path))

    def expand() -> list[messages.Item]:
        return list(manifests.from_references(names)())

    if not refusal(expand, by=ManifestInvalid):
        assert all("://" in item.reference for item in expand())


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_line_without_end_is_not_read_for_ever(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"manifest{ending}"
    file.write_text("reference\n" * (ending == ".csv") + '"x"\n' + "x" * (2 * manifests.MAX_LINE))
    told = refusal(manifests.check, manifests.from_manifest(file), by=ManifestInvalid)
    assert told == f"Line {3 if ending == '.csv' else 2} has more than {manifests.MAX_LINE} characters."


# ---------------------------------------------------------------- a JSON list


@tried(150)
@given(text=damaged_text(st.sampled_from(["[1]", '[{"a": 1}, {"b": [null, "x"]}]', "[\n[],\n{}\n]"])))
def test_a_list_is_read_as_all_at_once_or_refused(text: bytes) -> None:
    given_text = text.decode(errors="surrogateescape")
    told = refusal(lambda: list(json_list.elements(io.StringIO(given_text))), by=json_list.JsonListInvalid)
    if told:
        return
    # What follows the list is left unread.
    whole, _ = json.JSONDecoder().raw_decode(given_text.lstrip())
    assert repr([one for _, one in json_list.elements(io.StringIO(given_text))]) == repr(whole)


def test_many_small_elements_after_a_large_one_take_no_longer_than_before_it() -> None:
    large, num = json.dumps("x" * 3_000_000), 500_000
    text = f"[{large}{',1' * num}]"
    started_s = time.monotonic()
    assert sum(1 for _ in json_list.elements(io.StringIO(text))) == num + 1
    assert time.monotonic() - started_s < 30  # a second or two; minutes, where each one copies the rest


# ---------------------------------------------------------------- a playbook


@tried(300)
@given(text=damaged_text(st.just(PLAYBOOK)))
def test_a_playbook_reads_as_what_it_will_be_stored_as_or_is_refused(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "playbook.toml"
    file.write_bytes(text)
    if refusal(playbook.read, file, "cats", by=(PlaybookInvalid, RecipeInvalid), most=100_000):  # it is one's own
        return
    known = playbook.read(file, "cats")
    stored = json.loads(json.dumps(known.as_dict(), allow_nan=False))
    assert stored.pop("model") == "cats"
    assert playbook.Playbook.from_dict("cats", stored) == known


WRONG = {
    "no table of models": b"models = 3",
    "no table of a model": b"[models]\ncats = 3",
    "brackets without end": b"x = " + b"[" * 3000,
    "a number without end": b"x = " + b"9" * 5000,
    "a number beyond 64 bits": b"[trigger]\nmin_new_labels = 0x" + b"f" * 9000,
    "a date": b"[gate]\nalpha = 1979-05-27",
    "no number of seconds": b"[trigger]\ncooldown_s = inf",
    "a flag for a share": b"[trigger]\nmin_new_share = true",
    "a day that never comes": b'[trigger]\ncron = "0 0 31 2 *"',
    "seconds, which cron has not": b'[trigger]\ncron = "* * * * * *"',
    "letters for classes": b'classes = "cat"',
    "numbers for classes": b"classes = [1, 2]",
    "one class twice": b'classes = ["cat", "cat"]',
    "a number for a version": b"base = 3",
    "an accuracy that is none": b"target_accuracy = nan",
    "a risk in words": b'target_risk = "low"',
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_a_playbook_that_cannot_be_followed_is_refused_when_it_is_read(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "playbook.toml"
    file.write_bytes(text)
    assert refusal(playbook.read, file, "cats", by=PlaybookInvalid)


@tried(100)
@given(tables=st.dictionaries(st.sampled_from(["recipe", "trigger", "gate", "classes", "base"]), json_values))
def test_a_stored_playbook_that_was_changed_is_refused_or_read(tables: dict[str, object]) -> None:
    refusal(playbook.Playbook.from_dict, "cats", tables, by=(PlaybookInvalid, RecipeInvalid, TypeError))
