"""Takes nothing. Gives whether the ledger answers, to whoever asks: this alone needs no key."""

from typing import Literal

from fastapi import APIRouter
from sqlalchemy import text

from db import session
from worker.web.callers import Owned

router = APIRouter(tags=["health"])


@router.get("/healthcheck", operation_id="check_health")
def healthcheck(house: Owned) -> dict[Literal["status"], Literal["ok"]]:
    """Tell whether requests can be served now."""
    with session.reading(house.sessions) as reading:
        reading.execute(text("SELECT 1"))
    return {"status": "ok"}
