"""The page of a run says what happened, shows strangers' text as text, and asks the network for nothing."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from pipeline.learning import report
from pipeline.learning.report import RunReport
from tests.pipeline.learning import reports

#: elements that have no end tag
VOID = {"meta", "img", "br"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}$\\frac{a</style>"
VARIANTS = {
    "full": reports.full(),
    "first": reports.full(champion=None, gate=replace(reports.gate(), difference=None)),
    "two classes": reports.full(("cat", "dog")),
    "hundred classes": reports.full([f"class {number}" for number in range(100)]),
    "failed": reports.failed(),
    "not recommended": reports.not_recommended(),
    "bare": reports.bare(),
}


class Elements(HTMLParser):
    """Collects elements and the text of a page, and refuses one whose tags do not match."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def classed(self, name: str) -> list[dict[str, str]]:
        return [attributes for _, attributes in self.elements if name in attributes.get("class", "").split()]


@functools.cache
def written(name: str) -> bytes:
    """Render a variant once."""
    return report.render(VARIANTS[name])


def page_of(given: RunReport) -> Elements:
    return Elements(report.render(given))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_page_is_sound_and_asks_the_network_for_nothing(name: str) -> None:
    page = Elements(written(name))
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form", "a"})
    for tag, attributes in page.elements:
        assert not [each for each in attributes if each.startswith("on")]
        for link in {"src", "href", "xlink:href", "srcset", "action"} & set(attributes):
            assert attributes[link].startswith(("data:image/", "#")), (tag, attributes[link])
    urls = re.findall(rb"url\(([^)]*)\)|@import", written(name))
    assert all(url.startswith(b"#") for url in urls)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_browser_is_told_to_load_and_run_nothing(name: str) -> None:
    policies = [meta["content"] for meta in Elements(written(name)).named("meta") if "http-equiv" in meta]
    assert [policy.split(";")[0] for policy in policies] == ["default-src 'none'"]
    assert "script-src" not in policies[0]


def test_each_id_is_given_once_and_each_pointer_finds_it() -> None:
    page = Elements(written("full"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    pointers = set(re.findall(r"#([\w-]+)\)|href=\"#([\w-]+)", written("full").decode()))
    assert len(ids) == len(set(ids)) > 5
    assert {first or second for first, second in pointers} == set(ids)


def strings(value: Any, path: str = "") -> Iterator[str]:
    """Name every text field of a report, such as `run.model` or `most_wrong.0.label`."""
    if isinstance(value, str):
        yield path
    elif is_dataclass(value):
        for field in fields(value):
            yield from strings(getattr(value, field.name), f"{path}.{field.name}".strip("."))
    elif isinstance(value, tuple):
        for index, item in enumerate(value[:1]):
            yield from strings(item, f"{path}.{index}")


def with_text(value: Any, path: list[str], text: str) -> Any:
    """Give the report with one text replaced."""
    if not path:
        return text
    if isinstance(value, tuple):
        index = int(path[0])
        return (*value[:index], with_text(value[index], path[1:], text), *value[index + 1 :])
    return replace(value, **{path[0]: with_text(getattr(value, path[0]), path[1:], text)})


def test_text_of_strangers_stays_text_wherever_it_stands() -> None:
    given = VARIANTS["full"]
    for path in strings(given):
        given = with_text(given, path.split("."), HOSTILE)
    page = page_of(given)
    assert page.named("script") == []
    assert [image["src"][:23] for image in page.named("img")] == ["data:image/jpeg;base64,"]
    assert page.text.count(HOSTILE) > 30
    assert "49" not in page.text.split()


@pytest.mark.parametrize(
    "text",
    ["a\u202eb", "a\x00b", "a\nb", "a\ud800b", "a\u200bb", "a\u2028b"],
    ids=["override", "nul", "line", "surrogate", "zero width", "separator"],
)
def test_characters_that_would_move_or_hide_the_text_around_them_are_blanked(text: str) -> None:
    assert "a b" in page_of(replace(reports.bare(), notes=(text,))).text


def test_a_long_text_is_cut_in_the_middle() -> None:
    page = page_of(replace(reports.bare(), notes=("start" + "x" * 100_000 + "end",)))
    assert re.search(r"startx{195} … x{197}end", page.text)


@pytest.mark.parametrize(
    ("run", "badge", "tone", "sentence"),
    [
        ({}, "Promoted", "good", "pets:4 now serves."),
        ({"is_promoted": False}, "Passed", "good", "pets:4 passed the gate and may serve."),
        ({"verdict": "hold"}, "Promoted by hand", "warn", "pets:4 now serves."),
        ({"verdict": "hold", "is_promoted": False}, "Held", "calm", "pets:4 is held back; pets:3 keeps serving."),
        ({"verdict": "reject", "is_promoted": False}, "Rejected", "bad", "pets:4 is refused; pets:3 keeps serving."),
        (
            {"verdict": "underpowered", "is_promoted": False},
            "Underpowered", "warn", "There are too few test images to judge pets:4.",
        ),
        (
            {"state": "failed", "is_promoted": False, "error_message": "No disk."},
            "Failed", "bad", "The run failed.",
        ),
        ({"state": "running", "verdict": None, "is_promoted": False}, "Running", "calm", "The run has not ended yet."),
    ],
    ids=["promoted", "passed", "by hand", "hold", "reject", "underpowered", "failed", "running"],
)  # fmt: skip
def test_the_verdict_stands_first(run: dict[str, Any], badge: str, tone: str, sentence: str) -> None:
    page = page_of(RunReport(run=reports.facts(**run), challenger=reports.scores(), champion=reports.scores("pets:3")))
    assert f"{badge} {sentence} {run.get('error_message', 'It is no worse.')}" in page.text.replace("  ", " ")
    assert page.named("body") == [{"class": tone}]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("first", "pets:4 now serves, the first of its model."),
        ("failed", "The run failed at the step “finetune”."),
        ("not recommended", "Training is not recommended with these labels."),
        ("bare", "The run was cancelled."),
    ],
)
def test_a_run_says_how_far_it_came(name: str, sentence: str) -> None:
    page = Elements(written(name))
    assert sentence in page.text
    assert ("Nothing in service was changed" in page.text) != VARIANTS[name].run.is_promoted


def test_sections_of_what_is_not_known_are_left_out() -> None:
    page = Elements(written("bare"))
    assert len(page.named("section")) == 1
    assert page.named("svg") == []


def test_few_classes_have_their_counts_in_a_table() -> None:
    challenger = VARIANTS["full"].challenger
    assert challenger is not None
    wanted = [str(count) if count else "" for row in challenger.confusion for count in row]
    matrix = re.search(r'<table class="matrix".*?</table>', written("full").decode(), re.DOTALL)
    assert matrix is not None
    assert re.findall(r'<td class="[^"]*"[^>]*>(\d*)</td>', matrix[0]) == wanted
    assert Elements(written("full")).classed("heat") == []


def test_many_classes_are_a_heat_map_the_weakest_named_first() -> None:
    challenger = VARIANTS["hundred classes"].challenger
    assert challenger is not None
    weakest = sorted(challenger.per_class, key=lambda scores: scores.recall or 0)
    text = written("hundred classes").decode()
    assert re.findall(r'class="name">(class \d+)<', text) == [scores.name for scores in weakest]
    page = Elements(text.encode())
    assert page.classed("matrix") == []
    assert len(page.classed("heat")) == 1
    assert "The other 84 classes" in page.text


def test_a_class_stands_beside_the_champions_and_a_new_one_says_so() -> None:
    given = VARIANTS["full"]
    assert given.challenger is not None
    assert given.champion is not None
    recalls = [f"{100 * scores.recall:.2f}" for scores in given.challenger.per_class if scores.recall is not None]
    before = [f"{100 * scores.recall:.2f}" for scores in given.champion.per_class if scores.recall is not None]
    bars = r'class="bar"><i style="width: ([\d.]+)%"></i>(?:<b style="left: ([\d.]+)%)?'
    assert re.findall(bars, written("full").decode()) == list(zip(recalls, [*before, ""], strict=True))
    assert " new " in Elements(written("full")).text


def test_the_page_stays_below_two_megabytes_whatever_the_report_holds() -> None:
    names = [f"a class with a rather long name, number {number}" for number in range(1000)]
    noise = np.random.default_rng(0).integers(0, 2, (1000, 1000))
    base = reports.scores("pets:4", names)
    given = reports.full(
        names,
        challenger=replace(base, confusion=tuple(map(tuple, noise.tolist()))),
        champion=reports.scores("pets:3", names),
        most_wrong=tuple(reports.wrong(thumbnail_jpeg=b"x" * 30_000, reference="r" * 5000) for _ in range(64)),
        lineage=replace(
            reports.lineage(names),
            lost=tuple(report.Lost(reference="r" * 9000, reason="x" * 9000) for _ in range(1000)),
        ),
    )
    text = report.render(given)
    assert len(text) < 2_000_000
    page = Elements(text)
    assert 20 < len(page.named("img")) < 64
    assert page.text.count("no picture") == 64 - len(page.named("img"))
    assert "and 980 more" in page.text


def test_the_same_report_gives_the_same_bytes_also_in_many_threads_at_once() -> None:
    wanted = {name: written(name) for name in ("full", "failed")}
    settings = dict(mpl.rcParams)
    with ThreadPoolExecutor(4) as pool:
        found = {name: [pool.submit(report.render, VARIANTS[name]) for _ in range(2)] for name in wanted}
    for name, futures in found.items():
        assert {future.result() for future in futures} == {wanted[name]}
    assert dict(mpl.rcParams) == settings


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_numbers_that_are_none_do_not_stop_the_page(number: float) -> None:
    hurt = replace(reports.scores(), nll=number, accuracy=0.0, seconds_per_image=number)
    given = reports.full(
        challenger=hurt,
        plan=reports.plan(curve=reports.curve(a=number, needed=(number, number, number))),
        trials=(report.Trial(strategy="all", score=number, standard_error=number, epochs=reports.epochs((number,))),),
    )
    assert "nan" not in page_of(given).text.lower().split()


def test_digests_are_set_as_code_and_fields_as_words() -> None:
    page = Elements(written("full"))
    assert f"Snapshot {reports.SHA256}" in page.text
    assert "Label smoothing 0.1" in page.text
    assert f"<code>{reports.SHA256}</code>" in written("full").decode()
