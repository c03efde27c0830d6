"""Takes an address. Gives the webhook in the foreground, until it is told to stop. Knows nothing of payloads."""

import logging
import signal
import socketserver
import threading
from argparse import Namespace

from worker import logs
from worker.cli import labels
from worker.client import Client
from worker.settings import Settings, SettingsInvalid
from worker.stack import StackError

log = logging.getLogger(__name__)


def webhook(asked: Namespace, settings: Settings) -> int:
    """Serve until Ctrl-C or SIGTERM; callers that are being served are answered first."""
    from worker import webhook as door

    if not settings.webhook_token:
        raise SettingsInvalid("The webhook never runs open: set IMAGEMILL_WEBHOOK_TOKEN (or ..._FILE) to a secret.")
    with Client(settings.broker_url) as client:
        client.ping()
        logs.set_up(settings.log_level, form=settings.log_format, role="webhook")
        about = door.Door(client=client, token=settings.webhook_token, project=labels.project(asked))
        try:
            server = door.Server((asked.address, asked.port), about)
        except (OSError, OverflowError) as wrong:
            raise StackError(f"The webhook cannot listen at {asked.address}:{asked.port}: {wrong}.") from None
        with server:
            log.info("the webhook listens at http://%s:%s", asked.address, server.server_port)
            _serve(server)
    return 0


def _serve(server: socketserver.BaseServer) -> None:
    def stop(*_: object) -> None:
        # From another thread: `shutdown` waits for the loop that this one runs.
        threading.Thread(target=server.shutdown).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    server.serve_forever()
    log.info("the webhook stops")
