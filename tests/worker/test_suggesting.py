"""What to label next, on a real ledger and with real, tiny networks."""

import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import registry, session
from tests.mills import make_version
from tests.worker import builders
from tests.worker.schools import COLOURS, MODEL, School, open_school, picture
from worker import playbook
from worker.errors import NothingToStartFrom
from worker.learning import suggesting
from worker.learning.suggesting import Found


@pytest.fixture
def school(tmp_path: Path, sessions: sessionmaker[Session]) -> Iterator[School]:
    """A model without labels, and a base version."""
    with open_school(tmp_path / "mill", sessions) as opened:
        yield opened


def pictures(school: School, num: int, *, first: int = 0) -> tuple[str, ...]:
    """Write pictures of each class, by turns, that nobody has labelled."""
    made = []
    for seed in range(first, first + num):
        label = list(COLOURS)[seed % 3]
        file = school.folder / f"new-{seed:03}.png"
        picture(label, 50_000 + seed).save(file)
        made.append(file.as_uri())
    return tuple(made)


def suggest(school: School, references: Sequence[str] | None, num: int = 10, **wish: object) -> Found:
    given = tuple(references) if references is not None else None
    asked = suggesting.Wish(model=MODEL, references=given, num=num, **wish)
    return suggesting.suggest(school.workshop, asked, playbook.read(school.settings.playbook, MODEL))


def champion(school: School, classes: tuple[str, ...] = ("cat", "dog", "hen")) -> registry.Version:
    """Let a version serve."""
    return make_version(school.sessions, school.settings, MODEL, seed=3, classes=classes)


def classify(school: School, pool: ThreadPoolExecutor, references: Sequence[str]) -> uuid.UUID:
    """Have the serving version classify images."""
    job_id = builders.submit(builders.desk(school.sessions, school.folder.parent), references, model=MODEL)
    station = builders.station(school.sessions, school.folder, pool)
    for shard in builders.shards(school.sessions, job_id):
        builders.serving.sit(station, shard.id)
    return job_id


def test_without_labels_or_a_champion_typical_images_come_first_and_every_fifth_is_random(school: School) -> None:
    found = suggest(school, pictures(school, 24))
    assert (found.version, found.num_pool, found.num_labelled, found.num_per_class) == ("base:1", 24, 0, 0.0)
    assert [one.why for one in found.suggestions] == [*["typical"] * 4, "random"] * 2
    assert {(one.predicted, one.probability) for one in found.suggestions} == {(None, None)}
    assert len({one.reference for one in found.suggestions}) == 10


def test_the_same_question_has_the_same_answer_and_another_seed_another(school: School) -> None:
    names = pictures(school, 24)
    assert suggest(school, names) == suggest(school, names)
    assert suggest(school, names).suggestions != suggest(school, names, seed=1).suggestions


def test_images_that_have_a_label_are_left_out_whatever_they_are_called(school: School) -> None:
    school.teach(("cat", "dog"), 3)
    known = school.folder / "cat-0001.png"
    copy = school.folder / "copy.png"
    copy.write_bytes(known.read_bytes())
    names = pictures(school, 6)
    twin = school.folder / "twin.png"
    twin.write_bytes((school.folder / "new-000.png").read_bytes())
    found = suggest(school, (known.as_uri(), copy.as_uri(), *names, twin.as_uri(), names[0]))
    assert (found.num_labelled, found.num_pool, found.num_per_class) == (1, 6, 3.0)
    assert len(found.suggestions) == 6
    assert len({one.sha256 for one in found.suggestions}) == 6


def test_what_the_champion_classified_last_is_the_pool_and_its_doubts_lead(
    school: School, pool: ThreadPoolExecutor
) -> None:
    school.teach(("cat", "dog", "hen"), 12)
    serving = champion(school)
    names = pictures(school, 20)
    classify(school, pool, [*names, *names[:4]])
    found = suggest(school, None)
    assert (found.version, found.num_pool, found.num_per_class) == (serving.name, 20, 12.0)
    doubts = [one for one in found.suggestions if one.why == "margin"]
    assert len(doubts) == 8
    assert doubts[0].score == min(one.score for one in doubts)
    recorded = {}
    with session.reading(school.sessions) as reading:
        for one in suggesting.outcomes.recorded_since(reading, MODEL, serving.id, 0.0, 100):
            recorded[one.reference] = one
    for one in found.suggestions:
        assert one.predicted == recorded[one.reference].label
        assert one.probability == pytest.approx(recorded[one.reference].score, abs=1e-4)


def test_outcomes_of_another_version_are_no_pool(school: School, pool: ThreadPoolExecutor) -> None:
    champion(school)
    classify(school, pool, pictures(school, 4))
    champion(school)
    assert suggest(school, None).num_pool == 0


def test_below_ten_labels_a_class_the_champion_still_says_what_it_sees(school: School) -> None:
    school.teach(("cat", "dog", "hen"), 4)
    champion(school)
    found = suggest(school, pictures(school, 12), num=5)
    assert [one.why for one in found.suggestions] == [*["typical"] * 4, "random"]
    assert {one.predicted for one in found.suggestions} <= {"cat", "dog", "hen"}


def test_a_champion_that_knows_other_classes_altogether_is_not_asked(school: School) -> None:
    school.teach(("cat", "dog"), 12)
    champion(school, ("tabby", "goldfish", "tank"))
    found = suggest(school, pictures(school, 12), num=5)
    assert {one.why for one in found.suggestions} == {"typical", "random"}
    assert {one.predicted for one in found.suggestions} == {None}


def test_of_more_images_than_are_looked_at_a_random_part_is(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggesting, "MOST_POOLED", 8)
    monkeypatch.setattr(suggesting, "CHUNK", 4)
    names = pictures(school, 20)
    found = suggest(school, names, num=20)
    assert found.num_pool == 8
    assert {one.reference for one in found.suggestions} != set(names[:8])


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(school: School) -> None:
    broken = school.folder / "broken.png"
    broken.write_bytes(b"no image")
    gone, outside = (school.folder / "gone.png").as_uri(), "file:///etc/hostname"
    found = suggest(school, [gone, outside, broken.as_uri(), *pictures(school, 5)])
    assert {(one.reference, one.kind) for one in found.lost} >= {(gone, "missing"), (outside, "outside_roots")}
    assert broken.as_uri() in {one.reference for one in found.lost}
    assert found.num_pool == 5


def test_without_anything_to_look_with_it_says_so(school: School, tmp_path: Path) -> None:
    with pytest.raises(NothingToStartFrom, match="nobody"):
        suggesting.suggest(
            school.workshop, suggesting.Wish(model="nobody", references=(), num=3), playbook.read("", "nobody")
        )
