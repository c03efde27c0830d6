"""Takes the settings. Gives the page that Prometheus reads, on stdout: for a look, or a textfile collector.

Knows nothing of what is measured.
"""

import sys
from argparse import Namespace
from functools import partial

from worker import bell, exposition, runtime
from worker.app import create_app
from worker.cli import output
from worker.settings import Settings


def metrics(asked: Namespace, settings: Settings) -> int:
    """Print what `GET /metrics` gives; with --json, each sample with its labels."""
    app = create_app(settings)
    with runtime.ledger(settings) as sessions:
        told = exposition.Exposition(
            sessions=sessions,
            look=partial(bell.lengths, app, settings.models),
            max_waiting=settings.max_waiting_items,
        )
        if asked.json:
            output.as_json([
                {"name": sample.name, "labels": sample.labels, "value": sample.value}
                for metric in told.metrics()
                for sample in metric.samples
            ])  # fmt: skip
        else:
            sys.stdout.write(told.page()[0].decode())
    app.close()
    return 0
