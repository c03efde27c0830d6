"""Takes nothing. Gives the whole main job on real images: digits written as PNG, a model made, every outcome in SQL.

Knows nothing that the other commands do not: it is them, one after the other.
"""

import shutil
import signal
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from db import registry
from worker import runtime, versions
from worker.cli import output, stack
from worker.client import Client
from worker.messages import Item, JobStatus, Result
from worker.settings import Settings
from worker.stack import refuse_if_running

if TYPE_CHECKING:
    from pipeline.digits import Digit

#: Name of the demo's model.
MODEL = "digits"
#: Passes over the training digits.
NUM_EPOCHS = 12


def demo(asked: Namespace, settings: Settings) -> int:
    """Tell the story; gives 1 if an image got no label."""
    from pipeline import digits

    # As Ctrl-C does, these unwind, so that what was started is stopped.
    for number in stack.ends():
        signal.signal(number, signal.default_int_handler)
    home = settings.home / "demo"
    refuse_if_running(home)
    shutil.rmtree(home, ignore_errors=True)
    settings = replace(settings.at(home), models=(MODEL,), allowed_roots=(str(home / "images"),))
    console = output.errors() if asked.json else output.console()
    began_s = time.monotonic()

    def say(step: str) -> None:
        console.print(f"[dim]{time.monotonic() - began_s:5.1f} s[/dim]  {step}")

    written = digits.write_images(home / "images")
    train, held_out = digits.split(written, asked.seed)
    say(f"Wrote {len(written)} handwritten digits as PNG files under {home / 'images'}")
    version = _make_model(settings, train, asked.seed)
    say(f"Trained a network of {version.num_parameters:,} parameters on {len(train)} of them, saved as {version.name}")
    with stack.running(settings, say=say):
        say("The stack is up: Redis, intake, one warm classify worker, upkeep and beat")
        truth = {digit.file.as_uri(): digit.label for digit in held_out}
        with Client(settings.broker_url) as client:
            submitted_s = time.monotonic()
            receipt = client.submit_items(
                lambda: (Item(reference=one, key=Path(one).name) for one in truth), model=MODEL
            )
            say(f"Submitted the other {receipt.num_items} as job {receipt.job_id}")
            status = client.wait(receipt.job_id, timeout_s=120)
            took_s = time.monotonic() - submitted_s
            results = list(client.results(receipt.job_id))
        say(f"The job {status.state}: {len(results)} outcomes in {took_s:.2f} s, {len(results) / took_s:,.0f} images/s")
    say("Stopped everything that was started")
    _report(asked, settings, status, results, truth)
    return 0 if status.state == "succeeded" else 1


def _make_model(settings: Settings, train: "Sequence[Digit]", seed: int) -> registry.Version:
    """Train, save as a checkpoint, register and promote: with the code that every version goes through."""
    from db import migrate
    from pipeline import backbones, checkpoints, digits

    migrate.upgrade(settings.database_url)
    with output.progress("Training", NUM_EPOCHS) as advance:
        network = digits.train(train, seed=seed, num_epochs=NUM_EPOCHS, on_epoch=lambda epoch, _: advance(epoch))
    draft = checkpoints.Draft(
        arch=digits.ARCH, classes=tuple("0123456789"), preprocess=backbones.preprocess_for(digits.ARCH)
    )
    with runtime.ledger(settings) as sessions:
        version = versions.register(sessions, settings.store, MODEL, network, draft, source="demo")
        versions.promote(sessions, version.name, reason="demo")
    return version


def _report(
    asked: Namespace, settings: Settings, status: JobStatus, results: Sequence[Result], truth: dict[str, str]
) -> None:
    right = [result.label == truth[result.reference] for result in results]
    accuracy = sum(right) / len(truth)
    if asked.json:
        output.as_json({"job": status, "accuracy": accuracy, "ledger": settings.database_url})
        return
    total, correct = (
        Counter(truth.values()),
        Counter(truth[one.reference] for one, ok in zip(results, right, strict=True) if ok),
    )
    mistaken = {
        label: ", ".join(sorted({f"{one.label}" for one in results if truth[one.reference] == label != one.label}))
        for label in total
    }
    output.table(
        "\nWhat the held-out digits were taken for",
        ("digit", "items", "right", "accuracy", "mistaken for", "recorded in"),
        (
            (
                label,
                total[label],
                correct[label],
                f"{correct[label] / total[label]:.3f}",
                mistaken[label],
                "outcomes",
            )
            for label in sorted(total)
        ),
    )
    output.table(
        "\nSome outcomes",
        ("image", "label", "score", "truth", "version"),
        (
            (Path(one.reference).name, one.label, f"{one.score:.3f}", truth[one.reference], one.version)
            for one in results[:5]
        ),
    )
    ledger = settings.database_url.removeprefix("sqlite:///")
    console = output.console()
    console.print(f"\nMeasured accuracy on {len(results)} held-out images: [bold green]{accuracy:.4f}[/bold green]")
    console.print(f"Every outcome is a row of table `outcomes` in {ledger}, job {status.job_id}:", soft_wrap=True)
    console.print(f"  IMAGEMILL_HOME={settings.home} .venv/bin/imagemill jobs results {status.job_id}", soft_wrap=True)
    console.print("\nTry next: `.venv/bin/imagemill up`, and what README.md says of your own images.")
