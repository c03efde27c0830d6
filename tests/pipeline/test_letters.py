"""Printed letters: the same for the same seed, and told apart by a small network."""

from pathlib import Path

from pipeline import digits, images, letters


def test_the_same_seed_draws_the_same_letters_and_another_one_others(tmp_path: Path) -> None:
    drawn = [
        [letter.file.read_bytes() for letter in letters.write_images(tmp_path / name, seed, num_per_letter=1)]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == len(letters.LETTERS)


def test_letters_are_images_of_the_digits_size(tmp_path: Path) -> None:
    first = letters.write_images(tmp_path, 0, num_per_letter=1)[0]
    assert images.decode(first.file.read_bytes(), images.Limits()).size == (digits.SIZE, digits.SIZE)
    assert first.label == letters.LETTERS[0]
