import pytest

from db import splits


@pytest.mark.parametrize(("key", "u"), [(b"", 0.889416), (b"a", 0.791374), ("a", 0.791374)])
def test_a_share_is_what_science_says(key, u):
    assert splits.share(key) == pytest.approx(u, abs=5e-7)


def test_a_salt_stands_before_the_key():
    assert splits.share("a", salt="cd") == splits.share(b"cd|a") != splits.share("a")


@pytest.mark.parametrize(
    ("u", "split"),
    [(0.0, "test"), (0.1499, "test"), (0.15, "val"), (0.2499, "val"), (0.25, "train"), (0.9999, "train")],
)
def test_the_lowest_shares_judge_and_the_next_choose(u, split):
    assert splits.split_of(u) == split


@pytest.mark.parametrize("salt", ["", "5f", "a salt"])
def test_twenty_thousand_keys_fall_into_their_shares_within_three_sigma(salt):
    drawn = [splits.split_of(splits.share(f"image:{n}", salt)) for n in range(20_000)]
    for split, expected in (("test", 0.15), ("val", 0.10), ("train", 0.75)):
        sigma = (expected * (1 - expected) / 20_000) ** 0.5
        assert abs(drawn.count(split) / 20_000 - expected) < 3 * sigma
