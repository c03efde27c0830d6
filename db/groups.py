"""Groups: which images must share a split, and which split that is.

Takes new images one after the other, beside those they nearly repeat. Gives each its place: a group and its split.
Knows nothing of SQL; a place once written is never changed, so no order of arrival moves an image.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from db.near import Neighbours, Print, shelves_of
from db.splits import Split, share, split_of

#: images from which a class must have its share of test images (science 3.3)
FLOOR_NUM = 25
#: test images below which the next new groups of such a class judge
FLOOR_TEST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The group and the split of an image."""

    #: `group:` and the caller's name, or `image:` and the content hash of the group's first image
    key: str
    split: Split
    #: content hash of the image it nearly repeats
    near_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An image that has its place already."""

    sha256: str
    print: Print
    #: where the print stands: `near.shelves_of`
    shelves: tuple[int, ...]
    place: Place


def group_key(name: str) -> str:
    """Spell the key of a group that a caller names."""
    return f"group:{name}"


def image_key(sha256: str) -> str:
    """Spell the key of a group that its first image founds."""
    return f"image:{sha256}"


class Floors:
    """Counts the images of classes, to see which has too few that judge."""

    def __init__(self, nums: Mapping[int, int], nums_test: Mapping[int, int]) -> None:
        """Take the images of each class number, and those of them that judge; a class without is not looked after."""
        self._nums = Counter(nums)
        self._nums_test = Counter(nums_test)

    def is_short(self, class_number: int) -> bool:
        """Tell whether the next new group of a class must judge."""
        return self._nums_test[class_number] < FLOOR_TEST and self._nums[class_number] >= FLOOR_NUM

    def move(self, before: int | None, after: int, split: Split) -> None:
        """Count an image in its class, and no longer in the one it had before."""
        if split == "excluded" or before == after:
            return
        for number, step in ((before, -1), (after, 1)):
            if number is not None:
                self._nums[number] += step
                self._nums_test[number] += step * (split == "test")


class Placing:
    """Gives new images their places, each in the light of all before it."""

    def __init__(self, *, salt: str, near: Iterable[Placed], named: Mapping[str, Split], floors: Floors) -> None:
        """Take the images that new ones may nearly repeat, and the splits of the groups that callers name."""
        self._salt = salt
        self._named = dict(named)
        self._floors = floors
        self._neighbours = Neighbours()
        self._places: dict[str, Place] = {}
        for placed in near:
            self._remember(placed)

    def place(self, sha256: str, one: Print, group: str | None, class_number: int) -> Place:
        """Place a new image; where it would tie two splits together it joins neither."""
        near = self._neighbours.of(one)
        near_sha256 = near[0] if near else None
        key = self._key(sha256, group, near_sha256)
        splits = {self._places[name].split for name in near}
        if key in self._named:
            splits.add(self._named[key])
        if len(splits) > 1:
            return Place(key=image_key(sha256), split="excluded", near_sha256=near_sha256)
        split = splits.pop() if splits else self._draw(key, class_number)
        place = Place(key=key, split=split, near_sha256=near_sha256)
        self._named[key] = split
        self._remember(Placed(sha256=sha256, print=one, shelves=shelves_of(one), place=place))
        return place

    def _key(self, sha256: str, group: str | None, near_sha256: str | None) -> str:
        if group is not None:
            return group_key(group)
        return image_key(sha256) if near_sha256 is None else self._places[near_sha256].key

    def _draw(self, key: str, class_number: int) -> Split:
        return "test" if self._floors.is_short(class_number) else split_of(share(key, self._salt))

    def _remember(self, placed: Placed) -> None:
        # What resembles an excluded image alone is free: nothing is learnt or judged from that one.
        if placed.place.split != "excluded":
            self._neighbours.add(placed.sha256, placed.print, placed.shelves)
            self._places[placed.sha256] = placed.place
