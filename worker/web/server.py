"""Takes the settings. Gives the HTTP app, and serves it until it is told to stop. Knows nothing of any one route."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from worker.settings import Settings
from worker.web import health, house, metrics, problems

#: Every part of the API.
ROUTERS = (health.router, metrics.router)

#: Seconds a kept-alive connection may lie idle.
IDLE_S = 30
#: Seconds that requests have to end once the server stops.
GRACE_S = 10


def build(settings: Settings) -> FastAPI:
    """Build the app; what it owns is opened when it starts."""

    @asynccontextmanager
    async def owning(app: FastAPI) -> AsyncIterator[None]:
        with house.opened(settings) as owned:
            app.state.house = owned
            yield

    app = FastAPI(title="imagemill", version="1", lifespan=owning, docs_url=None, redoc_url=None)
    problems.handle(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def config(app: FastAPI, address: str = "127.0.0.1", port: int = 0) -> uvicorn.Config:
    """Say how the app is served."""
    return uvicorn.Config(
        app,
        host=address,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=GRACE_S,
        ws="none",
        proxy_headers=False,
    )


def run(settings: Settings, address: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that are being served are answered first."""
    uvicorn.Server(config(build(settings), address, port)).run()
