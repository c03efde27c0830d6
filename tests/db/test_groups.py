import pytest

from db.groups import FLOOR_NUM, FLOOR_TEST, Floors, Place, Placed, Placing
from db.near import Print, shelves_of
from db.splits import share, split_of
from tests.db import builders

CLASS = 0


def placing(*, near=(), named=None, floors=None):
    return Placing(salt="5f", near=near, named=named or {}, floors=floors or Floors({}, {}))


def known(name, one, split, key=None):
    place = Place(key=key or f"image:{name}", split=split)
    return Placed(sha256=name, print=one, shelves=shelves_of(one), place=place)


PICTURE = builders.label("picture").print
OTHER = builders.label("other").print
#: near both of the two that are too far from each other
LEFT, MIDDLE, RIGHT = (Print(dhash=PICTURE.dhash ^ bits, thumbnail=PICTURE.thumbnail) for bits in (0, 0b111, 0b111111))


def test_an_image_of_its_own_draws_its_split_from_its_content():
    places = [placing().place(f"{n}", builders.label(n).print, None, CLASS) for n in range(40)]
    assert places == [Place(key=f"image:{n}", split=split_of(share(f"image:{n}", "5f"))) for n in range(40)]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_near_duplicate_takes_the_group_and_the_split_of_the_nearest(split):
    near = [known("near", MIDDLE, split), known("nearest", LEFT, split, key="group:patient 3")]
    assert placing(near=near).place("new", LEFT, None, CLASS) == Place(
        key="group:patient 3", split=split, near_sha256="nearest"
    )


def test_what_is_near_two_splits_joins_neither():
    near = [known("left", LEFT, "train"), known("right", RIGHT, "test")]
    place = placing(near=near).place("middle", MIDDLE, None, CLASS)
    assert place == Place(key="image:middle", split="excluded", near_sha256="left")


def test_an_excluded_image_draws_nobody_after_it():
    near = [known("left", LEFT, "excluded"), known("right", RIGHT, "test")]
    assert placing(near=near).place("middle", MIDDLE, None, CLASS).split == "test"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_named_group_keeps_the_split_it_has(split):
    place = placing(named={"group:patient 3": split}).place("new", PICTURE, "patient 3", CLASS)
    assert place == Place(key="group:patient 3", split=split)


def test_a_new_named_group_draws_its_split_from_its_name():
    named = placing()
    places = [named.place(f"{n}", builders.label(n).print, "patient 3", CLASS) for n in range(10)]
    assert {(place.key, place.split) for place in places} == {
        ("group:patient 3", split_of(share("group:patient 3", "5f")))
    }


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_new_named_group_follows_what_its_first_image_repeats(split):
    place = placing(near=[known("old", PICTURE, split)]).place("new", PICTURE, "patient 3", CLASS)
    assert (place.key, place.split, place.near_sha256) == ("group:patient 3", split, "old")


def test_an_image_of_a_named_group_that_repeats_one_of_another_split_is_excluded():
    tied = placing(near=[known("old", PICTURE, "test")], named={"group:patient 3": "train"})
    assert tied.place("new", PICTURE, "patient 3", CLASS).split == "excluded"
    assert tied.place("next", OTHER, "patient 3", CLASS).split == "train"


@pytest.mark.parametrize(
    ("num", "num_test", "is_short"),
    [
        pytest.param(FLOOR_NUM, FLOOR_TEST - 1, True, id="many images, few that judge"),
        pytest.param(FLOOR_NUM, FLOOR_TEST, False, id="enough that judge"),
        pytest.param(FLOOR_NUM - 1, 0, False, id="a small class"),
    ],
)
def test_a_class_with_too_few_that_judge_gets_the_next_new_group(num, num_test, is_short):
    floors = Floors({CLASS: num}, {CLASS: num_test})
    assert floors.is_short(CLASS) == is_short
    splits = {placing(floors=floors).place(f"{n}", builders.label(n).print, None, CLASS).split for n in range(40)}
    assert splits == ({"test"} if is_short else {"test", "val", "train"})


def test_floors_follow_images_from_class_to_class():
    floors = Floors({0: 25, 1: 25}, {0: 5, 1: 4})
    floors.move(0, 1, "test")
    assert (floors.is_short(0), floors.is_short(1)) == (False, False)  # 24 images are too few to ask for more
    floors.move(None, 0, "train")
    assert floors.is_short(0)
    floors.move(None, 0, "excluded")
    floors.move(None, 0, "test")
    assert not floors.is_short(0)
