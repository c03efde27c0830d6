"""Class names are unique and in the order of the outputs, wherever they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.classes import read_classes, unique_names
from pipeline.errors import ClassesInvalid


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "cat\ndog\n\nhen\n"),
        ("c.txt", "\ufeffcat\r\ndog\r\nhen"),
        ("c.json", '["cat", "dog", "hen"]'),
        ("c.csv", "name\ncat\ndog\nhen\n"),
        ("c.csv", "index,label\n2,hen\n0,cat\n1,dog\n"),
        ("c.tsv", "class\tindex\nhen\t2\ncat\t0\ndog\t1\n"),
    ],
)
def test_every_kind_of_list_gives_the_names_in_order(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_classes(tmp_path / name) == ("cat", "dog", "hen")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("c.txt", "", "no classes"),
        ("c.txt", "cat\ndog\ncat\n", "repeated: cat"),
        ("c.json", '{"cat": 0}', "JSON list"),
        ("c.json", "[1, 2]", "JSON list"),
        ("c.json", "cat", "not JSON"),
        ("c.json", '["cat", " "]', "empty name"),
        ("c.csv", "title\ncat\n", "needs a header"),
        ("c.csv", "", "needs a header"),
        ("c.csv", "index,name\n0,cat\n2,dog\n", "1 is missing"),
        ("c.csv", "index,name\n0,cat\n0,dog\n", "1 is missing"),
        ("c.csv", "index,name\n1,cat\n2,dog\n", "0 is missing"),
        ("c.csv", "index,name\n0\n1,dog\n", "empty name"),
        ("c.csv", "name\ncat\ncat\n", "repeated: cat"),
    ],
)
def test_a_list_that_is_no_good_is_refused(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ClassesInvalid, match=sentence):
        read_classes(tmp_path / name)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\xff")
    for name in ("c.txt", "none.txt", "."):
        with pytest.raises(ClassesInvalid, match="cannot be read"):
            read_classes(tmp_path / name)


def test_a_table_tells_equal_names_apart() -> None:
    assert unique_names(["crane", "hen", "crane"], ["a", "b", "c"]) == ("crane (a)", "hen", "crane (c)")


def test_the_thousand_imagenet_classes_are_read_as_they_are(data_folder: Path) -> None:
    classes = read_classes(data_folder / "imagenet-sample" / "imagenet_classes.tsv")
    assert (len(set(classes)), classes[0]) == (1000, "tench, Tinca tinca")
    assert {"crane (n02012849)", "crane (n03126707)"} <= set(classes)
