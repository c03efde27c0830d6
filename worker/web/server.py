"""Takes the settings. Gives the HTTP app, and serves it until it is told to stop. Knows nothing of any one route."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from worker import label_studio
from worker.settings import Settings
from worker.web import (
    bodies,
    documents,
    following,
    health,
    house,
    jobs,
    labels,
    limits,
    metrics,
    models,
    outcomes,
    patience,
    problems,
    runs,
)
from worker.web.console import pictures, site

#: Every part of the API, and the console.
ROUTERS = (
    health.router,
    documents.router,
    jobs.router,
    following.router,
    outcomes.router,
    labels.router,
    runs.router,
    models.router,
    metrics.router,
    site.router,
)

#: Seconds a kept-alive connection may lie idle.
IDLE_S = 30
#: Seconds that requests have to end once the server stops.
GRACE_S = 10
#: Connections at once; a further one is told 503.
MAX_CONNECTIONS = 2000


def build(settings: Settings, project: label_studio.Project = label_studio.Project()) -> FastAPI:  # noqa: B008 - a value
    """Build the app; what it owns is opened when it starts. `project` says how Label Studio's tasks are read."""

    @asynccontextmanager
    async def owning(app: FastAPI) -> AsyncIterator[None]:
        with house.opened(settings, project) as owned, pictures.opened(settings) as shown:
            app.state.house, app.state.pictures = owned, shown
            yield

    app = FastAPI(title="imagemill", version="1", lifespan=owning, docs_url=None, redoc_url=None)
    problems.handle(app)
    documents.describe(app)
    app.add_middleware(limits.BodyTimes, max_bytes=bodies.MAX_UPLOAD)
    for router in ROUTERS:
        app.include_router(router)
    return app


def config(app: FastAPI, address: str = "127.0.0.1", port: int = 0) -> uvicorn.Config:
    """Say how the app is served."""
    return uvicorn.Config(
        app,
        host=address,
        port=port,
        http=patience.Patient,
        h11_max_incomplete_event_size=patience.MAX_HEAD,
        limit_concurrency=MAX_CONNECTIONS,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=GRACE_S,
        ws="none",
        proxy_headers=False,
    )


def run(settings: Settings, address: str, port: int, project: label_studio.Project) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that are being served are answered first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn raises the signal that ended it once more, for whoever listened before; to end so is no failure.
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config(build(settings, project), address, port)).run()
