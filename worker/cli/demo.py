"""Takes nothing. Gives the whole story on real images: labels arrive, a model learns, new labels arrive, it keeps up.

Knows nothing that the other commands do not: it is them, one after the other, on a schedule of seconds.
"""

import shutil
import signal
import threading
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from sqlalchemy.orm import Session, sessionmaker

from db import classes, gates, registry, runs, session, triggers
from worker import runtime, versions
from worker.cli import output, stack
from worker.client import Client
from worker.learning_messages import LabelledImage
from worker.messages import Item, JobStatus
from worker.settings import Settings
from worker.stack import StackError, refuse_if_running

if TYPE_CHECKING:
    from pipeline.digits import Digit

#: Names of the demo's models: the one that learns, and the one whose weights it starts from.
MODEL, BASE = "digits", "letters"
#: Classes that are known from the start, and that arrive later.
FIRST, LATER = "01234", "56789"
#: Printed letters per letter, and passes over them: seconds of pretraining.
NUM_LETTERS, NUM_EPOCHS = 40, 5
#: Seconds a run of the demo may take on a busy machine.
PATIENCE_S = 150.0
#: Seconds between two looks at the ledger.
POLL_S = 0.1

#: How the demo's model learns. Every value is an ordinary setting; `imagemill playbook` explains them all.
PLAYBOOK = f"""\
[models.{MODEL}]
base = "{BASE}:1"          # the backbone was pretrained on printed letters
[models.{MODEL}.recipe]
epochs = 8                 # seconds, not minutes
[models.{MODEL}.gate]
margins = [[0, 0.10]]      # some 120 test images of the first five digits tell no difference below 4 points
[models.{MODEL}.trigger]
min_new_labels = {{num_labels}}
min_new_class_labels = 0   # all five at once, rather than the first ten images of one
cooldown_s = 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Share of the held-out digits that were recognised."""

    first: float
    later: float
    #: versions that answered
    versions: tuple[str, ...]


def demo(asked: Namespace, settings: Settings) -> int:
    """Tell the story; gives 1 if the model did not keep up."""
    began_s = time.monotonic()
    from pipeline import digits

    # As Ctrl-C does, these unwind, so that what was started is stopped.
    for number in stack.ends():
        signal.signal(number, signal.default_int_handler)
    home = settings.home / "demo"
    refuse_if_running(home)
    shutil.rmtree(home, ignore_errors=True)
    written = digits.write_images(home / "images" / "digits")
    known, held_out = digits.split(written, asked.seed)
    settings = quick_settings(settings, home, known)
    story = Story(output.errors() if asked.json else output.console(), settings, began_s)
    story.say(f"Wrote {len(written)} handwritten digits as PNG files; {len(held_out)} are held out, never labelled")
    make_base(story, asked.seed)
    with (
        stack.running(settings, say=story.say),
        Client(settings.broker_url) as client,
        runtime.ledger(settings) as sessions,
    ):
        before, after = _live_through(story, client, sessions, known, held_out)
        report, promotions = _last_report(sessions), _history(sessions)
    story.say("Stopped everything that was started")
    _tell_end(asked, story, before, after, promotions, report)
    return 0 if after.later > 0.5 and after.first > 0.9 else 1


def quick_settings(settings: Settings, home: Path, known: "Sequence[Digit]") -> Settings:
    """Give settings for a stack in `home` that looks every second, and write its playbook."""
    num_labels = min(sum(digit.label in group for digit in known) for group in (FIRST, LATER))
    playbook = home / "playbook.toml"
    playbook.write_text(PLAYBOOK.format(num_labels=num_labels))
    usual = settings.at(home)
    return replace(
        usual,
        models=(MODEL,),
        allowed_roots=(str(home / "images"),),
        playbook=str(playbook),
        tick_s=1.0,
        sweep_s=2.0,
        learn_share=0.5,
    )


def _live_through(
    story: "Story",
    client: Client,
    sessions: sessionmaker[Session],
    known: "Sequence[Digit]",
    held_out: "Sequence[Digit]",
) -> tuple[Accuracy, Accuracy]:
    story.say("The stack is up: Redis, intake, classify, learn, upkeep, and beat, which ticks every second")
    story.label(client, [digit for digit in known if digit.label in FIRST], FIRST)
    story.await_promotion(sessions, 1)
    before = story.classify(client, held_out, "before the others are known")
    with story.keeping_busy(client, held_out) as jobs:
        story.label(client, [digit for digit in known if digit.label in LATER], LATER)
        story.await_promotion(sessions, 2)
    ended = [client.wait(job, timeout_s=60) for job in jobs]
    _check_jobs(ended)
    served = sorted({str(status.version) for status in ended})
    story.say(
        f"Meanwhile {len(ended)} jobs of {len(held_out)} images ended, all whole, answered by {' and '.join(served)}: "
        "the warm worker swapped between them"
    )
    return before, story.classify(client, held_out, "now")


class Story:
    """Says what happens, with the seconds since the beginning, and does it."""

    def __init__(self, console: Console, settings: Settings, began_s: float) -> None:
        self.settings = settings
        self._console = console
        self._began_s = began_s

    def say(self, step: str) -> None:
        """Print one line of the story."""
        self._console.print(f"[dim]{time.monotonic() - self._began_s:5.1f} s[/dim]  {step}", soft_wrap=True)

    def label(self, client: Client, digits: "Sequence[Digit]", classes: str) -> None:
        """Send labels as another service would."""
        images = [
            LabelledImage(reference=digit.file.as_uri(), label=digit.label, who="demo", source="demo")
            for digit in digits
        ]
        receipt = client.label_items(images, model=MODEL)
        self.say(f"Sent {receipt.num_labels} labels of the digits {classes[0]} to {classes[-1]}")

    def await_promotion(self, sessions: sessionmaker[Session], number: int) -> None:
        """Tell what the trigger and the run do until the model's `number`-th promotion."""
        give_up_s = time.monotonic() + PATIENCE_S
        told: set[object] = set()
        while True:
            with session.reading(sessions) as reading:
                ticks = [tick for tick in triggers.ticks(reading, MODEL, limit=5) if tick.is_fired]
                newest = runs.runs(reading, 1, model=MODEL)
                promotions = registry.history(reading, MODEL)
            for line in _news(ticks, newest, number):
                if line not in told:
                    told.add(line)
                    self.say(line)
            if len(promotions) >= number:
                moved = promotions[number - 1]
                self.say(f"[bold green]{moved.version} is promoted[/bold green]: {output.plain(moved.reason)}")
                return
            _refuse_hopeless(sessions, newest, number, give_up_s)
            time.sleep(POLL_S)

    def classify(self, client: Client, digits: "Sequence[Digit]", when: str) -> Accuracy:
        """Classify the held-out digits through the queue and count what was right."""
        truth = {digit.file.as_uri(): digit.label for digit in digits}
        receipt = client.submit_items(lambda: (Item(reference=reference) for reference in truth), model=MODEL)
        client.wait(receipt.job_id, timeout_s=60)
        results = list(client.results(receipt.job_id))
        right = {result.reference for result in results if result.label == truth[result.reference]}
        found = Accuracy(
            first=_share(right, truth, FIRST),
            later=_share(right, truth, LATER),
            versions=tuple(sorted({result.version or "none" for result in results})),
        )
        self.say(
            f"Classified the {len(truth)} held-out digits {when}: 0 to 4 [bold]{found.first:.3f}[/bold] right, "
            f"5 to 9 [bold]{found.later:.3f}[/bold], by {' and '.join(found.versions)}"
        )
        return found

    @contextmanager
    def keeping_busy(self, client: Client, digits: "Sequence[Digit]") -> Iterator[list[str]]:
        """Have jobs running in the background all the time; gives their ids."""
        stop = threading.Event()
        jobs: list[str] = []
        references = [digit.file.as_uri() for digit in digits]

        def keep_submitting() -> None:
            with Client(self.settings.broker_url) as other:
                while not stop.is_set():
                    jobs.append(other.submit(references, model=MODEL, caller="demo").job_id)
                    other.wait(jobs[-1], timeout_s=60)

        busy = threading.Thread(target=keep_submitting, name="busy")
        busy.start()
        try:
            yield jobs
            # A promotion is followed within seconds: let a job see it.
            self.await_swap(client, digits)
        finally:
            stop.set()
            busy.join()

    def await_swap(self, client: Client, digits: "Sequence[Digit]") -> None:
        """Wait until the second version answers."""
        give_up_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_s:
            job = client.submit([digits[0].file.as_uri()], model=MODEL)
            if client.wait(job.job_id, timeout_s=60).version == f"{MODEL}:2":
                return


def _news(ticks: Iterable[triggers.Tick], newest: Sequence[runs.Run], number: int) -> Iterator[str]:
    for tick in ticks:
        if tick.run_id == number:
            yield f"The trigger fires run {tick.run_id}: {tick.reason}"
    for run in newest:
        if run.id == number and run.plan:
            plan = run.plan["plan"]
            yield f"The plan: {plan['cell']}; train {' against '.join(plan['candidates'])}"
        if run.id == number and run.step in ("train", "evaluate", "gate") and run.state == "running":
            yield f"Run {run.id}: {run.step}"


def _refuse_hopeless(
    sessions: sessionmaker[Session], newest: Sequence[runs.Run], number: int, give_up_s: float
) -> None:
    for run in newest:
        if run.id >= number and run.finished_at_s is not None and run.verdict != "promote":
            with session.reading(sessions) as reading:
                gate = gates.by_run(reading, run.id)
            why = f"{gate.verdict}. {gate.reason}" if gate else f"{run.state}. {run.error_message}"
            raise StackError(f"Run {run.id} ended without a promotion: {why}")
    if time.monotonic() > give_up_s:
        raise StackError(f"No promotion came within {PATIENCE_S:.0f} s; see the logs.")


def make_base(story: Story, seed: int) -> None:
    """Pretrain a small network on printed letters: with the code that every version goes through."""
    from db import migrate
    from pipeline import backbones, checkpoints, digits, letters

    settings = story.settings
    migrate.upgrade(settings.database_url)
    drawn = letters.write_images(settings.home / "images" / "letters", seed, num_per_letter=NUM_LETTERS)
    with output.progress("Pretraining", NUM_EPOCHS) as advance:
        network = digits.train(drawn, seed=seed, num_epochs=NUM_EPOCHS, on_epoch=lambda epoch, _: advance(epoch))
    draft = checkpoints.Draft(
        arch=digits.ARCH,
        classes=tuple(sorted({letter.label for letter in drawn})),
        preprocess=backbones.preprocess_for(digits.ARCH),
    )
    with runtime.ledger(settings) as sessions:
        with session.transaction(sessions) as transaction:
            # The same seed tests on the same images, so that the story ends alike.
            classes.lock(transaction, MODEL, salt=f"demo {seed}")
        version = versions.register(sessions, settings.store, BASE, network, draft, source="demo")
    story.say(
        f"Pretrained a network of {version.num_parameters:,} parameters on {len(drawn)} printed letters: {version.name}"
    )


def _check_jobs(ended: Iterable[JobStatus]) -> None:
    broken = [status for status in ended if status.state != "succeeded" or status.num_succeeded != status.num_items]
    if broken:
        raise StackError(f"Job {broken[0].job_id} is {broken[0].state}: the swap was to lose nothing.")


def _share(right: set[str], truth: dict[str, str], classes: str) -> float:
    asked = [reference for reference, label in truth.items() if label in classes]
    return sum(reference in right for reference in asked) / len(asked)


def _last_report(sessions: sessionmaker[Session]) -> str:
    with session.reading(sessions) as reading:
        return next(run.report for run in runs.runs(reading, 1, model=MODEL)) or ""


def _history(sessions: sessionmaker[Session]) -> list[registry.Promotion]:
    with session.reading(sessions) as reading:
        return registry.history(reading, MODEL)


def _tell_end(
    asked: Namespace,
    story: Story,
    before: Accuracy,
    after: Accuracy,
    promotions: Sequence[registry.Promotion],
    report: str,
) -> None:
    if asked.json:
        output.as_json({"before": before, "after": after, "promotions": promotions, "report": report})
        return
    output.table(
        "\nHeld-out digits that were recognised",
        ("digits", "before", "after"),
        (
            ("0 to 4, known from the start", f"{before.first:.3f}", f"{after.first:.3f}"),
            ("5 to 9, labelled later", f"{before.later:.3f}", f"{after.later:.3f}"),
        ),
    )
    home = story.settings.home
    console = output.console()
    console.print("\nWhy the second version was let in, as a page: ", soft_wrap=True)
    console.print(f"  {report}", soft_wrap=True)
    console.print("Try next:", soft_wrap=True)
    for command in (f"models history {MODEL}", "triggers list", "runs show 2", f"labels stats --model {MODEL}"):
        console.print(f"  IMAGEMILL_HOME={home} .venv/bin/imagemill {command}", soft_wrap=True)
    console.print("Then `.venv/bin/imagemill up`, and what README.md says of your own images.")
