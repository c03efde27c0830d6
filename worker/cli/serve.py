"""Takes an address. Gives HTTP in the foreground, until it is told to stop. Knows nothing of requests."""

from argparse import Namespace

from worker import logs
from worker.cli import labels
from worker.client import Client
from worker.settings import Settings


def serve(asked: Namespace, settings: Settings) -> int:
    """Serve until Ctrl-C or SIGTERM; requests that are being served are answered first."""
    from worker import runtime
    from worker.web import server

    with runtime.ledger(settings), Client(settings.broker_url) as client:
        client.ping()
    logs.set_up(settings.log_level, form=settings.log_format, role="http")
    server.run(settings, asked.address, asked.port or settings.http_port, labels.project(asked))
    return 0
