"""Whatever the order in which labels arrive, no image changes its split and no picture is in two of them."""

import io
import random
from itertools import combinations, count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sqlalchemy import select

from db import labels, models
from db.near import MAX_DIFFERENCE, MAX_DISTANCE, difference, unsigned
from db.session import transaction
from pipeline import images
from pipeline.fingerprints import fingerprint
from tests.db import builders

#: nothing can be taken back from a ledger of labels, so each story is told of another model
NUMBERS = count()
LIMITS = images.Limits()
EXIF_ORIENTATION = 0x0112


def batched(new, size):
    return (new[start : start + size] for start in range(0, len(new), size))


def begin(session, salt):
    model = f"model {next(NUMBERS)}"
    session.add(models.LabelSet(model=model, salt=f"{salt}"))
    return model


def splits_of(session, model):
    """The split of each image, after a look at every pair of them."""
    chosen = select(models.Image, models.Group.split).join(models.Group).where(models.Image.model == model)
    found = [(image, split) for image, split in session.execute(chosen) if split != "excluded"]
    for (one, split), (other, other_split) in combinations(found, 2):
        is_hashed_near = (unsigned(one.dhash) ^ unsigned(other.dhash)).bit_count() <= MAX_DISTANCE
        if is_hashed_near and difference(one.thumbnail, other.thumbnail) < MAX_DIFFERENCE:
            assert split == other_split
    return {image.sha256: split for image, split in session.execute(chosen)}


#: which picture, how many bits of its hash are turned, in which group it is said to be, as what
LABELS = st.tuples(
    st.integers(0, 3), st.integers(0, 9), st.sampled_from([None, None, "a", "b"]), st.sampled_from(["cat", "dog"])
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(LABELS, min_size=2, max_size=24), st.integers(1, 8), st.integers(0, 99))
def test_splits_never_move_and_no_near_pair_straddles_two(sessions, told, at_a_time, salt):
    pictures = [builders.label(n) for n in range(4)]
    new = [
        builders.again(pictures[n], f"{n}, {bits} bits", bits=(1 << bits) - 1, group=group, label=name)
        for n, bits, group, name in told
    ]
    seen = {}
    with transaction(sessions) as session:
        model = begin(session, salt)
        for chunk in batched(new, at_a_time):
            added = labels.add(session, model, chunk)
            now = splits_of(session, model)
            assert [one.split for one in added] == [now[label.sha256] for label in chunk]
            assert seen.items() <= now.items()
            seen = now


def photograph(seed):
    """A picture with large and small shapes, so that another one looks nothing like it."""
    choose = random.Random(seed)
    noise = [Image.frombytes("RGB", (side, side), choose.randbytes(3 * side * side)) for side in (4, 12, 40)]
    coarse, fine, finest = (one.resize((240, 180), Image.Resampling.BICUBIC) for one in noise)
    return Image.blend(Image.blend(coarse, fine, 0.35), finest, 0.15)


def saved(picture, kind="JPEG", **how):
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


def versions(picture):
    """The same picture in the files in which it comes back."""
    turned = Image.Exif()
    turned[EXIF_ORIENTATION] = 6  # shown turned clockwise
    yield saved(picture, "PNG")
    yield from (saved(picture, quality=quality) for quality in (60, 95))
    yield saved(picture.resize((216, 162)), quality=90)
    yield saved(picture.transpose(Image.Transpose.ROTATE_90), quality=95, exif=turned)


@pytest.fixture(scope="module")
def fingerprints():
    """Five files of each of eight pictures."""
    return [[fingerprint(file, LIMITS) for file in versions(photograph(seed))] for seed in range(8)]


@pytest.mark.parametrize("seed", range(6))
def test_a_picture_saved_again_is_known_in_any_order(sessions, fingerprints, seed):
    new = [
        builders.label(
            one.sha256, sha256=one.sha256, dhash=one.dhash, thumbnail=one.thumbnail, label=f"class {picture % 3}"
        )
        for picture, files in enumerate(fingerprints)
        for one in (*files, files[0])
    ]
    random.Random(seed).shuffle(new)
    with transaction(sessions) as session:
        model = begin(session, seed)
        for chunk in batched(new, 7):
            labels.add(session, model, chunk)
        splits = splits_of(session, model)
        stats = labels.stats(session, model)
    assert [len({splits[one.sha256] for one in files}) for files in fingerprints] == [1] * 8
    assert (stats.num_images, stats.num_groups, stats.num_near_duplicates) == (40, 8, 32)
