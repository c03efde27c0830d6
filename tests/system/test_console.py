"""The owner's whole story in a real browser: labels given by key, a run asked for and watched, a version promoted.

Chromium is the system's own; where there is none, this says so and is left out.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from db import keys, labels, proposals, registry, session
from tests.http import conftest as http
from tests.mills import Mill, await_until, open_mill
from tests.worker.schools import picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: seconds that one thing on a page may take on a busy machine
PATIENCE_S = 90
#: classes, and pictures of each that are labelled beforehand, by another door
PETS, NUM = ("cat", "dog", "hen"), 30
#: pictures left to the person with the browser
NUM_LEFT = 6

#: every tile of the gallery shows its picture, at its true size
LOADED = "[...document.querySelectorAll('.gallery img')].every(one => one.complete && one.naturalWidth === 32)"
#: little is enough to see that a run goes through
PLAYBOOK = """\
[recipe]
epochs = 4
[trigger]
is_on = false
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: install Debian's package `chromium`")


@pytest.fixture(scope="module")
def mill() -> Iterator[Mill]:
    """A stack of this file's own, whose models change."""
    home = Path(tempfile.mkdtemp(prefix="im-con-"))
    try:
        playbook = home / "quick.toml"
        playbook.write_text(PLAYBOOK)
        with open_mill(home, models=("pets",), playbook=str(playbook)) as opened:
            yield opened
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def page(mill: Mill) -> Iterator[Page]:
    """A browser before the console, signed in by typing a key."""
    with session.transaction(mill.sessions) as transaction:
        secret = keys.draw()
        keys.add(transaction, secret, name="ada", scopes=("label", "operate"))
    with http.serve(mill.settings) as served, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(base_url=f"http://127.0.0.1:{served.port}")
        opened.set_default_timeout(1000 * PATIENCE_S)
        expect.set_options(timeout=1000 * PATIENCE_S)
        troubles: list[str] = []
        opened.on("pageerror", lambda wrong: troubles.append(str(wrong)))
        opened.on("console", lambda said: troubles.append(said.text) if "Content Security" in said.text else None)
        opened.goto("/console")
        opened.get_by_label("API key").fill(secret)
        opened.keyboard.press("Enter")
        expect(opened.get_by_role("heading", name="Now")).to_be_visible()
        yield opened
        browser.close()
    assert troubles == []


def write(mill: Mill, label: str, seed: int) -> str:
    file = mill.images / f"{label}-{seed}.png"
    picture(label, 7000 + 1000 * PETS.index(label) + seed).save(file)
    return file.as_uri()


def teach(mill: Mill) -> None:
    """Label most pictures as another service does, and propose the rest for review, as `labels suggest` does."""
    pairs = [(write(mill, label, seed), label) for label in PETS for seed in range(NUM)]
    assert mill.client.label(pairs, model="pets").refused == ()
    left = [write(mill, PETS[number % len(PETS)], NUM + number) for number in range(NUM_LEFT)]
    new = [
        proposals.NewProposal(reference=name, sha256=f"{number:064}", why="typical")
        for number, name in enumerate(left)
    ]  # fmt: skip
    with session.transaction(mill.sessions) as transaction:
        proposals.replace(transaction, "pets", "suggest", "pets:1", new)


def known(mill: Mill) -> dict[str, str]:
    with session.reading(mill.sessions) as reading:
        return {Path(one.reference).name: one.label for one in labels.current(reading, "pets")}


def serving(mill: Mill) -> str:
    with session.reading(mill.sessions) as reading:
        pointer = registry.serving(reading, "pets")
    assert pointer is not None
    return pointer.version.name


def test_a_person_labels_by_key_retrains_watches_and_promotes_by_clicking(mill: Mill, page: Page) -> None:
    teach(mill)
    _label_by_key(mill, page)
    _retrain_and_watch(page)
    _promote_and_roll_back(mill, page)
    _look_through_a_job(mill, page)


def _label_by_key(mill: Mill, page: Page) -> None:
    page.get_by_role("link", name="Review").click()
    page.get_by_role("link", name=f"{NUM_LEFT} suggested for a label").click()
    told = page.get_by_role("status")
    for number in range(NUM_LEFT):
        expect(page.locator(".review figure img")).to_have_js_property("complete", True)
        expect(page.get_by_text(f"{NUM_LEFT - number} wait", exact=True)).to_be_visible()
        right = PETS[number % len(PETS)]
        if number == 1:  # a slip of the finger, taken back
            page.keyboard.press("3")
            expect(told).to_contain_text("Recorded “hen”")
            page.keyboard.press("u")
            expect(page.get_by_text("has answered this one")).to_be_visible()
        page.keyboard.press(str(1 + PETS.index(right)))
        expect(told).to_contain_text(f"Recorded “{right}”")
    expect(page.get_by_text("Nothing waits here.")).to_be_visible()
    given = known(mill)
    assert {f"{PETS[n % 3]}-{NUM + n}.png": PETS[n % 3] for n in range(NUM_LEFT)}.items() <= given.items()


def _retrain_and_watch(page: Page) -> None:
    page.get_by_role("link", name="Models").click()
    page.get_by_role("link", name="pets", exact=True).click()
    page.get_by_label("Why?").last.fill("the pictures of this morning")
    page.get_by_role("button", name="Ask for a run").click()
    expect(page.get_by_role("heading", name="Run 1")).to_be_visible()
    expect(page.get_by_text("the pictures of this morning")).to_be_visible()
    # Nobody reloads the page: it follows the run by itself to its end.
    expect(page.get_by_role("heading", name="Gate")).to_be_visible()
    expect(page.locator("#live .badge").first).to_have_text("succeeded")
    page.get_by_role("link", name="Report").click()
    expect(page.locator("h1")).to_be_visible()
    assert page.url.endswith("/report")
    page.go_back()


def _promote_and_roll_back(mill: Mill, page: Page) -> None:
    assert page.get_by_role("link", name="To the versions of pets").is_visible()
    page.get_by_role("link", name="To the versions of pets").click()
    if serving(mill) == "pets:2":  # the gate let it in by itself
        page.get_by_text("Roll back …").click()
        page.get_by_label("Why go back").fill("to see that it can be done")
        page.get_by_role("button", name="Roll back pets").click()
        await_until(lambda: serving(mill) == "pets:1", "the old version serves again")
        page.goto("/console/models/pets")
    page.get_by_text("Promote …").first.click()
    page.get_by_label("Why pets:2?").fill("")
    override = page.get_by_label("Override the gate")
    if override.count():
        page.get_by_role("button", name="Promote pets:2").click()
        expect(page.get_by_role("alert")).to_contain_text("The gate did not let pets:2 serve")
        page.get_by_text("Promote …").first.click()
        override.check()
    page.get_by_label("Why pets:2?").fill("seen with my own eyes")
    page.get_by_role("button", name="Promote pets:2").click()
    expect(page.get_by_text("pets:2 serves")).to_be_visible()
    assert serving(mill) == "pets:2"
    expect(page.get_by_text("seen with my own eyes")).to_be_visible()


def _look_through_a_job(mill: Mill, page: Page) -> None:
    references = [write(mill, PETS[n % len(PETS)], 100 + n) for n in range(9)]
    job = mill.client.submit([*references, (mill.images / "gone.png").as_uri()], model="pets")
    mill.client.wait(job.job_id, timeout_s=PATIENCE_S)
    page.get_by_role("link", name="Jobs").click()
    page.get_by_role("link", name=job.job_id[:8]).click()
    page.get_by_label("Sort").select_option("doubtful")
    page.get_by_role("button", name="Show").click()
    shown = page.locator(".gallery li .said .n")
    expect(shown).to_have_count(9)
    scores = [float(text.split()[0]) for text in shown.all_inner_texts()]
    assert scores == sorted(scores)
    await_until(lambda: page.evaluate(LOADED), "every picture is there")
    page.goto(f"/console/jobs/{job.job_id}?show=errors")
    expect(page.get_by_text("There is no such file.")).to_be_visible()
    # By keys alone: to the image, and back to its job.
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Missing")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".gallery")).to_be_visible()
