import random
from math import inf
from statistics import fmean, pstdev

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from db import near
from db.near import MAX_DIFFERENCE, Neighbours, Print, Wanted

HASHES = st.integers(0, 2**64 - 1)
FIRM = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def picture(seed: int) -> bytes:
    return random.Random(seed).randbytes(256)


def retouched(thumbnail: bytes, by: int, *, tilt: int = 0) -> bytes:
    """The same picture, each grey level up to `by` away, and those of the left half lighter by `tilt`."""
    choose = random.Random(by)
    lighter = (level + choose.randint(-by, by) + tilt * (n % 16 < 8) for n, level in enumerate(thumbnail))
    return bytes(min(255, max(0, level)) for level in lighter)


def difference(a: bytes, b: bytes) -> float:
    """As science says it, in so many words."""
    first, second = ((fmean(one), pstdev(one)) for one in (a, b))
    levels = zip(a, b, strict=True)
    return fmean(abs((x - first[0]) / first[1] - (y - second[0]) / second[1]) for x, y in levels)


@FIRM
@given(HASHES, st.lists(st.integers(0, 63), max_size=4), st.integers(0, 999), st.integers(0, 5), st.integers(-7, 7))
def test_whatever_is_near_stands_within_reach(dhash, bits, seed, by, tilt):
    thumbnail = picture(seed)
    other = retouched(thumbnail, by, tilt=tilt)
    assume(difference(thumbnail, other) < MAX_DIFFERENCE)
    changed = dhash
    for bit in bits:
        changed ^= 1 << bit
    known = Print(dhash=changed, thumbnail=other)
    neighbours = Neighbours()
    neighbours.add("known", known, near.shelves_of(known))
    wanted = Wanted()
    wanted.add(Print(dhash=dhash, thumbnail=thumbnail))
    assert neighbours.of(Print(dhash=dhash, thumbnail=thumbnail)) == ["known"]
    assert wanted.has_near(changed, near.shelves_of(known))
    assert any(shelf in reached for shelf, reached in zip(near.shelves_of(known), wanted.reached(), strict=True))


@FIRM
@given(HASHES)
def test_a_hash_survives_the_signed_column(dhash):
    assert near.unsigned(near.signed(dhash)) == dhash
    assert -(2**63) <= near.signed(dhash) < 2**63


@FIRM
@given(HASHES, st.one_of(st.none(), st.binary(min_size=256, max_size=256)))
def test_a_shelf_fits_an_integer_column(dhash, thumbnail):
    assert all(0 <= shelf < 2**31 for shelf in near.shelves_of(Print(dhash=dhash, thumbnail=thumbnail)))


@pytest.mark.parametrize("by", [1, 3, 6, 9, 12])
def test_the_difference_is_that_of_the_standardised_grey_levels(by):
    thumbnail, other = picture(by), retouched(picture(by), by)
    expected = difference(thumbnail, other)
    assert near.difference(thumbnail, other) == pytest.approx(expected)


def test_brightness_and_contrast_make_no_difference():
    thumbnail = bytes(level // 4 + 20 for level in picture(0))
    brighter = bytes(2 * level + 50 for level in thumbnail)
    assert near.difference(thumbnail, brighter) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(bytes(256), bytes(256), 0.0, id="the same flat picture"),
        pytest.param(bytes(256), bytes([9] * 256), inf, id="two flat pictures"),
        pytest.param(bytes(256), picture(1), inf, id="a flat picture and another"),
        pytest.param(picture(2), picture(1), inf, id="two pictures"),
        pytest.param(None, None, 0.0, id="two hashes alone"),
        pytest.param(None, picture(1), inf, id="a hash alone and a picture"),
    ],
)
def test_what_cannot_be_compared_is_the_same_or_far_apart(a, b, expected):
    assert near.difference(a, b) == expected


def test_five_bits_are_too_many():
    neighbours, one = Neighbours(), Print(dhash=0, thumbnail=picture(0))
    for name, dhash in (("four", 0b1111), ("five", 0b11111)):
        neighbours.add(name, Print(dhash=dhash, thumbnail=picture(0)), near.shelves_of(one))
    assert neighbours.of(one) == ["four"]


def test_the_nearest_comes_first_by_bits_then_by_looks_then_by_name():
    thumbnail = picture(0)
    known = {
        "three bits": (0b111, thumbnail),
        "one bit, retouched": (0b1, retouched(thumbnail, 3)),
        "one bit, b": (0b1, thumbnail),
        "one bit, a": (0b10, thumbnail),
    }
    neighbours = Neighbours()
    for name, (dhash, looks) in known.items():
        one = Print(dhash=dhash, thumbnail=looks)
        neighbours.add(name, one, near.shelves_of(one))
    found = neighbours.of(Print(dhash=0, thumbnail=thumbnail))
    assert found == ["one bit, a", "one bit, b", "one bit, retouched", "three bits"]
