"""Takes how many jobs are to be sent. Gives them to imagemill, an image each, by the client of any service."""

from __future__ import annotations

import sys

from bench.peers import notebook
from worker.client import Client

if __name__ == "__main__":
    with Client(sys.argv[1]) as client:
        notebook.send(lambda job: client.submit([sys.argv[3]], model=sys.argv[2], job_id=job))
